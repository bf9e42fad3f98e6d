"""`oyer batches cancel` ends batches, in the record and for their trainer."""

import json
import socket
from pathlib import Path

import pytest
import yaml

from oyer.manager import BatchCancelled, RewardManager, Rollout
from oyer.models.engine import open_engine
from oyer.models.writes import ensure_run_and_batch, finish_batch
from tests.cli.conftest import Backend, rollout_rows
from tests.support.batch_commands import (
    CONFIG,
    HERE,
    error_of,
    half_judged,
    listed,
    recorded,
    shown_json,
)
from tests.support.cli_process import oyer
from tests.support.record_rows import START, make_batch
from tests.support.waiting import wait_until


def test_a_cancelled_batch_is_recorded_with_the_host_that_cancelled_it(backend: Backend) -> None:
    with half_judged(backend, "cancelled") as future:
        (state,) = listed(backend.folder, "--run", "cancelled", "--status", "submitted")
        assert state["id"] == future.batch_id
        done = oyer("batches", "cancel", future.batch_id, "--json", *CONFIG, cwd=backend.folder)
        assert json.loads(done.stdout) == {"id": future.batch_id, "status": "cancelled"}
        for command in ("cancel", "resume"):
            error = error_of(backend.folder, command, future.batch_id)
            assert "has ended already, cancelled at 20" in error
            assert f"oyer batches cancel ({socket.gethostname()}:" in error
    with pytest.raises(BatchCancelled, match="oyer batches cancel"):
        future.result(timeout_s=60)
    # What was in flight is judged and recorded, and counted at the end; the batch stays cancelled.
    wait_until(lambda: recorded(backend, future.batch_id)["usage"] is not None, "it is counted")
    ended = recorded(backend, future.batch_id)
    assert (ended["status"], ended["counts"]) == ("cancelled", {"scored": 8})
    assert ended["usage"] is not None
    assert ended["usage"]["calls"] == 8


def test_a_waiting_trainer_gets_an_error_when_its_batch_is_cancelled_elsewhere(
    tmp_path: Path, idle: RewardManager
) -> None:
    """No worker is running."""
    future = idle.submit([Rollout(**row) for row in rollout_rows("told", 4)], run="told")
    done = oyer("batches", "cancel", future.batch_id, *CONFIG, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    with pytest.raises(BatchCancelled, match="oyer batches cancel"):
        future.result(timeout_s=60)


def test_a_batch_whose_broker_has_ended_can_be_cancelled(
    tmp_path: Path, idle: RewardManager, sqlite_url: str
) -> None:
    engine = open_engine(sqlite_url)
    with engine.begin() as conn:
        left = ensure_run_and_batch(conn, make_batch()).batch_id
    engine.dispose()
    (tmp_path / "oyer.yaml").write_text(yaml.safe_dump({"store": {"url": sqlite_url}}))
    done = oyer("batches", "cancel", left, *CONFIG, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    shown = shown_json(tmp_path, left)
    assert shown["status"] == "cancelled"
    assert "after its broker had ended" in shown["ending"]


def test_a_batch_cancelled_by_its_trainer_is_recorded_as_cancelled(backend: Backend) -> None:
    with half_judged(backend, "trainer's own") as future:
        assert future.cancel()
        wait_until(
            lambda: recorded(backend, future.batch_id)["status"] == "cancelled",
            "its end is on record while the judge still holds its calls",
        )
    assert recorded(backend, future.batch_id)["ending"] == f"by the trainer ({HERE})"


def test_a_batch_that_waits_for_a_worker_is_queued_and_can_be_shown_and_cancelled(
    tmp_path: Path, idle: RewardManager
) -> None:
    future = idle.submit([Rollout(**row) for row in rollout_rows("queued", 4)], run="queued")
    (state,) = listed(tmp_path, "--status", "queued")
    assert (state["id"], state["run"], state["size"]) == (future.batch_id, "queued", 4)
    assert listed(tmp_path, "--status", "submitted") == []
    assert listed(tmp_path, "--run", "another") == []
    shown = shown_json(tmp_path, future.batch_id)
    assert [(row["host"], row["why"], row["seen_at"]) for row in shown["sent"]] == [
        (HERE, "submit", None)
    ]
    error = error_of(tmp_path, "resume", future.batch_id, "--timeout-s", "0.1")
    assert "4 of 4 verdicts are missing" in error
    assert [row["why"] for row in shown_json(tmp_path, future.batch_id)["sent"]] == [
        "submit",
        "oyer batches resume",
    ]
    done = oyer("batches", "cancel", future.batch_id, *CONFIG, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    future.cancel()


def test_a_batch_whose_payloads_have_expired_is_lost_and_can_be_cancelled(
    tmp_path: Path, idle: RewardManager, sqlite_url: str
) -> None:
    engine = open_engine(sqlite_url)
    with engine.begin() as conn:
        lost = ensure_run_and_batch(conn, make_batch()).batch_id
    engine.dispose()
    error = error_of(tmp_path, "resume", lost)
    assert "no longer in Redis" in error
    assert "submit its rollouts again" in error
    assert oyer("batches", "cancel", lost, *CONFIG, cwd=tmp_path).returncode == 0
    assert shown_json(tmp_path, lost)["status"] == "cancelled"


def test_a_batch_that_has_finished_is_not_cancelled(
    tmp_path: Path, idle: RewardManager, sqlite_url: str
) -> None:
    engine = open_engine(sqlite_url)
    with engine.begin() as conn:
        batch_id = ensure_run_and_batch(conn, make_batch()).batch_id
        finish_batch(
            conn, batch_id, status="finished", finished_at=START, counts={"scored": 4}, usage={}
        )
    engine.dispose()
    error = error_of(tmp_path, "cancel", batch_id)
    assert "has ended already, finished at 2026-03-31 23:59:58 UTC" in error
