"""A batch of eight rollouts in two groups, and environments in which no tracker calls home."""

import os
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from oyer.manager import RewardBatch, Rollout
from oyer.protocol.batch_result import BatchResult

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


def batch_of(batch_id: str = "b1", reward: float = 1.5) -> RewardBatch:
    """Return a batch: the first group has equal rewards, the last rollout has no score."""
    n = 8
    rewards = np.array([reward] * 4 + [1.0, 2.0, 3.0, np.nan], dtype=np.float32)
    result = BatchResult(
        batch_id=batch_id,
        rewards=rewards,
        unshaped_rewards=rewards,
        judge_scores=rewards,
        mask=np.isfinite(rewards),
        statuses=["scored"] * 7 + ["timeout"],
        terms={"judge": rewards},
        usage={"calls": 9, "prompt_tokens": 90, "completion_tokens": 9, "cost_usd": 0.25},
        first_errors={"timeout": "no answer within 5 s"},
        scores={"quality": rewards},
        groups=[0] * 4 + [1] * 4,
        judge_latency_ms={"p50": 100.0, "p95": 900.0},
        reasons={i: f"reason {i}: 7 | 10\nFinal score: 7" for i in range(n)},
    )
    rollouts = [Rollout(prompt=f"prompt {i}", response=f"response {i}") for i in range(n)]
    return replace(RewardBatch.of(BatchResult.from_wire(result.to_wire())), rollouts=rollouts)


@pytest.fixture
def batch() -> RewardBatch:
    return batch_of()
