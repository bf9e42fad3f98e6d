"""A batch, and an environment in which no tracker calls home."""

import os
import tempfile
from pathlib import Path

import pytest

from oyer.manager import RewardBatch
from tests.trackers.batches import batch_of

OFFLINE = {
    "WANDB_MODE": "offline",
    "WANDB_ERROR_REPORTING": "false",
    "WANDB_SILENT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "GRADIO_ANALYTICS_ENABLED": "False",
}


_TRACKIO = tempfile.TemporaryDirectory(prefix="oyer-trackio-")
os.environ["TRACKIO_DIR"] = _TRACKIO.name  # read when trackio is imported


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Run in a folder of the test's own, with telemetry off."""
    for name, value in OFFLINE.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "board"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def batch() -> RewardBatch:
    return batch_of()
