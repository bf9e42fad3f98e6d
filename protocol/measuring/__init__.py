"""Counters and histograms that every process keeps in Redis for `oyer metrics`, and workers' heartbeats."""
