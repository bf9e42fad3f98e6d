"""Batches in W&B's offline files, read back with W&B's own reader."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import wandb
from wandb.proto import wandb_internal_pb2

from oyer.manager import InvalidInput, RewardBatch, tracking
from tests.trackers.batches import batch_of

HEADER_BYTES, BLOCK_BYTES = 7, 32_768
"""Of W&B's file, a log of LevelDB: of the file and of each part of a record, and of a block."""


def records(folder: Path) -> Iterator[Any]:
    """Read an offline run's records; W&B's package has no reader of its own."""
    (path,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    content, at, record = path.read_bytes(), HEADER_BYTES, b""
    while at + HEADER_BYTES <= len(content):
        if BLOCK_BYTES - at % BLOCK_BYTES < HEADER_BYTES:
            at += BLOCK_BYTES - at % BLOCK_BYTES
            continue
        size, kind = struct.unpack_from("<HB", content, at + 4)
        at += HEADER_BYTES
        record += content[at : at + size]
        at += size
        if kind in (1, 4):  # the whole record, or its last part
            yield wandb_internal_pb2.Record.FromString(record)
            record = b""


def history(folder: Path) -> list[dict[str, Any]]:
    """Read the rows that an offline run logged."""
    wandb.teardown()  # the run's process may write after `finish`
    return [
        {
            item.key or "/".join(item.nested_key): json.loads(item.value_json)
            for item in one.history.item
        }
        for one in records(folder)
        if one.WhichOneof("record_type") == "history"
    ]


def test_metrics_and_table_are_in_the_run(batch: RewardBatch, offline: Path) -> None:
    with wandb.init(project="p", dir=offline) as run:
        tracking.log(batch, to="wandb", step=3, sample=4)
        tracking.log(batch_of("b2", 2.5), to=run, step=4, sample=0)
    first, second = history(offline)
    assert first["oyer/step"] == 3
    assert {name: first[name] for name in batch.metrics()} == pytest.approx(batch.metrics())
    assert second["oyer/step"] == 4
    assert "oyer/samples" in {key.partition("/_type")[0] for key in first}
    assert not any(key.startswith("oyer/samples") for key in second)
    (file,) = offline.glob("wandb/offline-run-*/files/media/table/oyer/samples_*.table.json")
    table = json.loads(file.read_text())
    assert len(table["data"]) == 4
    row = dict(zip(table["columns"], table["data"][0], strict=True))
    assert row["prompt"] == f"prompt {row['row']}"
    assert "reason" in row["reason"]


def test_the_steps_of_a_trainer_that_logs_with_explicit_steps_stay(
    batch: RewardBatch, offline: Path
) -> None:
    """As verl does: W&B drops a row for a step below its counter."""
    with wandb.init(project="p", dir=offline) as run:
        for step in (1, 2, 3):
            tracking.log(batch, to="wandb", step=step, sample=0)
            run.log({"loss": float(step)}, step=step)
    rows = history(offline)
    assert [row["loss"] for row in rows if "loss" in row] == [1, 2, 3]
    assert [row["oyer/step"] for row in rows if "oyer/step" in row] == [1, 2, 3]


def test_without_a_run_the_error_says_what_to_call(batch: RewardBatch) -> None:
    with pytest.raises(InvalidInput, match=r"no active run in this process; call wandb\.init"):
        tracking.log(batch, to="wandb")
