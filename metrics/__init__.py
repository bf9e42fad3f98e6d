"""The exporter of `oyer metrics` for Prometheus."""
