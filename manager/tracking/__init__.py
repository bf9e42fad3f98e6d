"""Logs batches to experiment trackers: W&B, MLflow, TensorBoard, Trackio. Loads none until used."""

from oyer.manager.tracking.libraries import LIBRARIES
from oyer.manager.tracking.logging import MAX_SAMPLE, SAMPLE, Tracking, log

__all__ = ["LIBRARIES", "MAX_SAMPLE", "SAMPLE", "Tracking", "log"]
