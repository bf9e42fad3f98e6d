"""Batches in TensorBoard's event files, read back with its accumulator."""

from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboardX import SummaryWriter

from oyer.manager import RewardBatch, tracking


def read(folder: Path) -> EventAccumulator:
    """Load the events of a folder."""
    return EventAccumulator(str(folder)).Reload()


def test_metrics_and_table_are_in_the_events(batch: RewardBatch, offline: Path) -> None:
    with SummaryWriter(str(offline / "own")) as writer:
        tracking.log(batch, to=writer, step=3, sample=4)
        tracking.log(batch, to=writer, step=4, sample=0)
    events = read(offline / "own")
    found = {tag: events.Scalars(tag)[0].value for tag in events.Tags()["scalars"]}
    assert found == pytest.approx(batch.metrics())
    assert [one.step for one in events.Scalars("oyer/quality")] == [3, 4]
    (text,) = events.Tensors("oyer/samples/text_summary")
    (markdown,) = text.tensor_proto.string_val
    head, _, *rows = markdown.decode().splitlines()
    assert head.startswith("| step | batch | row | prompt | response | reward | status | quality |")
    assert len(rows) == 4
    assert "7 \\| 10<br>Final score" in rows[0]


def test_the_name_writes_to_the_folder_of_the_environment(
    batch: RewardBatch, offline: Path
) -> None:
    tracking.log(batch, to="tensorboard", step=1)
    assert "oyer/quality" in read(offline / "board").Tags()["scalars"]
