"""Batches in the event files of PyTorch's own writer, which trainers use."""

from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from oyer.manager import RewardBatch, tracking
from oyer.protocol.batch_result import BatchResult


@pytest.mark.parametrize("by_name", [False, True])
def test_metrics_and_table_are_in_the_events(
    by_name: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path))
    ones = np.ones(4, dtype=np.float32)
    batch = RewardBatch.of(
        BatchResult(
            batch_id="b",
            rewards=ones,
            unshaped_rewards=ones,
            judge_scores=ones,
            mask=ones > 0,
            statuses=["scored"] * 4,
            terms={},
            usage={"calls": 4, "prompt_tokens": 40, "completion_tokens": 4, "cost_usd": 0.5},
            first_errors={},
            reasons={0: "because"},
        )
    )
    to = "tensorboard" if by_name else SummaryWriter(str(tmp_path))
    tracking.log(batch, to=to, step=3)
    events = EventAccumulator(str(tmp_path)).Reload()
    found = {tag: events.Scalars(tag)[0].value for tag in events.Tags()["scalars"]}
    assert found == pytest.approx(batch.metrics())
    assert events.Tags()["tensors"] == ["oyer/samples/text_summary"]
