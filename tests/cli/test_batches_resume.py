"""`oyer batches resume` submits unfinished batches again."""

import socket

import pytest
import redis

from oyer.manager import RewardManager, Rollout
from oyer.manager.backend.connection import backend as connection
from oyer.protocol.batch_store import BatchStore
from tests.cli.conftest import Backend, rollout_rows
from tests.support.batch_commands import (
    CONFIG,
    HERE,
    error_of,
    half_judged,
    listed,
    recorded,
    score,
    shown_json,
)
from tests.support.cli_process import oyer, running
from tests.support.waiting import wait_until


def test_a_finished_batch_is_read_from_the_record_when_it_is_resumed(backend: Backend) -> None:
    batch_id = score(backend, "resumed")
    backend.judge.reset()
    done = oyer("batches", "resume", batch_id, "--timeout-s", "60", *CONFIG, cwd=backend.folder)
    assert done.returncode == 0, done.stderr
    assert f"batch {batch_id}: 4 of 4 rollouts have a reward" in done.stdout
    assert "it had finished, and nothing was sent" in done.stdout
    assert backend.judge.requests == []
    assert recorded(backend, batch_id)["submissions"] == 1


def test_resuming_an_unfinished_batch_makes_no_further_call_and_is_recorded(
    backend: Backend,
) -> None:
    with half_judged(backend, "under way") as future:
        batch_id = future.batch_id
        options = ("--json", "--timeout-s", "60", *CONFIG)
        with running("batches", "resume", batch_id, *options, cwd=backend.folder) as command:
            # Its first chunk says that it came again; the judge still holds the calls.
            wait_until(lambda: recorded(backend, batch_id)["submissions"] == 2, "it came again")
            backend.judge.release()
            assert command.wait() == 0, command.errors()
        assert command.events() == [{"id": batch_id, "sent": True, "rollouts": 8, "rewards": 8}]
        assert len(future.result(timeout_s=60)) == 8
    assert len(backend.judge.requests) == 8
    first, second = shown_json(backend.folder, batch_id)["sent"]
    assert (first["host"], first["why"]) == (HERE, "submit")
    assert (second["host"], second["why"]) == (
        f"{socket.gethostname()}:{command.process.pid}",
        "oyer batches resume",
    )
    assert first["seen_at"] <= second["sent_at"] <= second["seen_at"]


def test_a_resubmission_by_the_trainer_is_recorded_with_the_reason(
    backend: Backend,
) -> None:
    with half_judged(backend, "stalled", stall_timeout_s=0.5) as future:
        wait_until(lambda: recorded(backend, future.batch_id)["submissions"] >= 2, "it came again")
        backend.judge.release()
        assert len(future.result(timeout_s=60)) == 8
    sent = shown_json(backend.folder, future.batch_id)["sent"]
    assert [row["why"] for row in sent[:2]] == ["submit", "made no progress for 0.5 s"]
    assert {row["host"] for row in sent} == {HERE}


def test_a_resume_that_times_out_prints_one_line(backend: Backend) -> None:
    with half_judged(backend, "late") as future:
        error = error_of(backend.folder, "resume", future.batch_id, "--timeout-s", "0.1")
    assert "did not end within 0.1 s" in error
    assert f"oyer batches show {future.batch_id}" in error
    assert len(future.result(timeout_s=60)) == 8


def test_a_batch_abandoned_by_its_trainer_is_failed_until_it_is_resumed(backend: Backend) -> None:
    with half_judged(backend, "given up") as future:
        future.give_up("made no progress; given up after 5 submissions")
        wait_until(lambda: recorded(backend, future.batch_id)["status"] == "failed", "it failed")
        (state,) = listed(backend.folder, "--run", "given up", "--status", "failed")
        assert state["ending"] == f"made no progress; given up after 5 submissions ({HERE})"
        options = ("--timeout-s", "60", *CONFIG)
        with running("batches", "resume", state["id"], *options, cwd=backend.folder) as command:
            wait_until(
                lambda: recorded(backend, future.batch_id)["status"] == "submitted",
                "it was resubmitted",
            )
            backend.judge.release()
            assert command.wait() == 0, command.errors()
    assert recorded(backend, future.batch_id)["status"] == "finished"


def test_resuming_a_batch_restarts_its_deadline(redis_url: str, idle: RewardManager) -> None:
    future = idle.submit([Rollout(**row) for row in rollout_rows("old", 4)])
    exchange = BatchStore(redis.Redis.from_url(redis_url), expires_s=600)
    before = exchange.manifest(future.batch_id)
    assert connection(redis_url, idle.config.broker.result_expires_s).resume(
        future.batch_id, "again"
    )
    after = exchange.manifest(future.batch_id)
    assert after.deadline > before.deadline
    assert after.deadline - before.deadline == pytest.approx(
        after.sendings[1].at - before.submitted_at, abs=1
    )
    future.cancel()
