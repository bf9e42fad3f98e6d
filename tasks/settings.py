"""Import path of earlier releases; configurations are loaded by `oyer.config.loading`."""

from oyer.config.loading import load_config, validate

__all__ = ["load_config", "validate"]
