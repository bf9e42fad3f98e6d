"""Batches in Trackio's local database."""

import pytest
import trackio
from trackio.sqlite_storage import SQLiteStorage

from oyer.manager import InvalidInput, RewardBatch, tracking


def test_metrics_and_table_are_in_the_run(batch: RewardBatch) -> None:
    run = trackio.init(project="p", name="r")
    tracking.log(batch, to="trackio", step=3, sample=4)
    tracking.log(batch, to=run, step=4, sample=0)
    trackio.finish()
    first, second = SQLiteStorage.get_logs("p", "r")
    assert first["step"] == 3
    assert {name: first[name] for name in batch.metrics()} == pytest.approx(batch.metrics())
    assert second["step"] == 4
    rows = first["oyer/samples"]["_value"]
    assert len(rows) == 4
    assert rows[0]["prompt"] == f"prompt {rows[0]['row']}"


def test_without_a_run_the_error_says_what_to_call(batch: RewardBatch) -> None:
    with pytest.raises(InvalidInput, match=r"call trackio\.init"):
        tracking.log(batch, to="trackio")
