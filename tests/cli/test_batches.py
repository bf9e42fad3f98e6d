"""`oyer batches` lists, shows, resumes and cancels batches."""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from oyer import migrations
from oyer.config.loading import load_config
from oyer.manager import BatchCancelled, RewardFuture, RewardManager, Rollout
from oyer.models import queries
from oyer.models.engine import open_engine, reading
from oyer.models.rows import BatchState
from oyer.models.writes import ensure_run_and_batch, finish_batch
from oyer.protocol.batch_store import BatchStore
from tests.cli.conftest import Backend, rollout_rows
from tests.support.cli_process import oyer, running
from tests.support.record_rows import START, make_batch
from tests.support.waiting import wait_until

_CONFIG = ("--config", "oyer.yaml")
HERE = f"{socket.gethostname()}:{os.getpid()}"


def _score(backend: Backend, run: str) -> str:
    """Score a file and return its batch's id."""
    backend.write_rollouts(f"{run}.jsonl", rollout_rows(run, 4))
    done = oyer("score", f"{run}.jsonl", "--run", run, *_CONFIG, cwd=backend.folder)
    assert done.returncode == 0, done.stderr
    (state,) = _listed(backend.folder, "--run", run)
    return str(state["id"])


def _listed(folder: Path, *options: str) -> list[dict[str, Any]]:
    done = oyer("batches", "list", "--json", *options, *_CONFIG, cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    return [json.loads(line) for line in done.stdout.splitlines()]


def _shown(folder: Path, batch_id: str) -> dict[str, Any]:
    done = oyer("batches", "show", batch_id, "--json", *_CONFIG, cwd=folder)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def _recorded(backend: Backend, batch_id: str) -> BatchState:
    """Read a batch from the record."""
    engine = open_engine(f"sqlite:///{backend.folder / 'oyer.db'}")
    with reading(engine) as conn:
        state = queries.batch(conn, batch_id)
    engine.dispose()
    assert state is not None
    return state


def _refused(folder: Path, command: str, batch_id: str, *options: str) -> str:
    """Run a command that fails, and return its one line of error."""
    done = oyer("batches", command, batch_id, *options, *_CONFIG, cwd=folder)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    return done.stderr


def _manager(backend: Backend, **changes: Any) -> RewardManager:
    """A trainer's manager on the session's backend."""
    config = load_config(backend.folder / "oyer.yaml", {}).model_dump(mode="json")
    state_file = backend.folder / ".oyer" / "backend.json"
    config["broker"]["url"] = json.loads(state_file.read_text())["broker_url"]
    return RewardManager({**config, **changes})


@contextmanager
def _half_judged(backend: Backend, run: str, **changes: Any) -> Iterator[RewardFuture]:
    """Submit a batch of eight; the judge holds the second half."""
    rule = {"when": {"matches": f"{run} answer [4-7]"}, "then": {"hold": True}}
    backend.judge.set_plan({"rules": [rule]})
    rollouts = [Rollout(**row) for row in rollout_rows(run, 8)]
    future = _manager(backend, **changes).submit(rollouts, run=run)
    backend.judge.wait_until(lambda log: len(log) == 8)
    try:
        yield future
    finally:
        backend.judge.release()


def test_a_batch_is_listed_and_shown_with_its_result(backend: Backend) -> None:
    batch_id = _score(backend, "listed")
    (state,) = _listed(backend.folder, "--run", "listed")
    assert (state["status"], state["size"], state["counts"]) == ("finished", 4, {"scored": 4})
    shown = _shown(backend.folder, batch_id)
    assert shown["usage"]["calls"] == 4
    assert shown["first_errors"] == {}
    (sent,) = shown["sent"]
    (work,) = shown["work"]
    host, _, process = sent["host"].partition(":")
    assert (host, process.isdecimal(), sent["why"]) == (socket.gethostname(), True, "submit")
    assert sent["worker"] == work["worker"]
    assert work["worker"].startswith(f"{socket.gethostname()}:")
    assert work["judgements"] == 4
    times = [sent["sent_at"], sent["seen_at"], work["first_at"], work["last_at"]]
    assert sorted([*times, shown["finished_at"]]) == [*times, shown["finished_at"]]
    for text in ("4 scored", batch_id, "finished"):
        assert text in oyer("batches", "list", *_CONFIG, cwd=backend.folder).stdout
        assert text in oyer("batches", "show", batch_id, *_CONFIG, cwd=backend.folder).stdout


@pytest.mark.parametrize("columns", ["", "160", "80"])
def test_a_list_prints_whole_ids_on_a_narrow_terminal(backend: Backend, columns: str) -> None:
    batch_id = _score(backend, f"narrow {columns}")
    arguments = ("--run", f"narrow {columns}", *_CONFIG)
    done = oyer("batches", "list", *arguments, cwd=backend.folder, COLUMNS=columns)
    assert batch_id in done.stdout
    assert "4 scored" in done.stdout


def test_failures_are_shown_with_their_errors(backend: Backend) -> None:
    backend.judge.set_plan({"default": {"status": 400, "body": "no such model"}})
    backend.write_rollouts("failing.jsonl", rollout_rows("failing", 4))
    oyer("score", "failing.jsonl", "--run", "failing", *_CONFIG, cwd=backend.folder)
    (state,) = _listed(backend.folder, "--run", "failing")
    shown = _shown(backend.folder, state["id"])
    assert shown["counts"] == {"rejected": 4}
    assert "no such model" in shown["first_errors"]["rejected"]
    text = oyer("batches", "show", state["id"], *_CONFIG, cwd=backend.folder).stdout
    assert "no such model" in text


def test_a_finished_batch_is_read_from_the_record_when_it_is_resumed(backend: Backend) -> None:
    batch_id = _score(backend, "resumed")
    backend.judge.reset()
    done = oyer("batches", "resume", batch_id, "--timeout-s", "60", *_CONFIG, cwd=backend.folder)
    assert done.returncode == 0, done.stderr
    assert f"batch {batch_id}: 4 of 4 rollouts have a reward" in done.stdout
    assert "it had finished, and nothing was sent" in done.stdout
    assert backend.judge.requests == []
    assert _recorded(backend, batch_id)["submissions"] == 1


def test_resuming_an_unfinished_batch_makes_no_further_call_and_is_recorded(
    backend: Backend,
) -> None:
    with _half_judged(backend, "under way") as future:
        batch_id = future.batch_id
        options = ("--json", "--timeout-s", "60", *_CONFIG)
        with running("batches", "resume", batch_id, *options, cwd=backend.folder) as command:
            # Its first chunk says that it came again; the judge still holds the calls.
            wait_until(lambda: _recorded(backend, batch_id)["submissions"] == 2, "it came again")
            backend.judge.release()
            assert command.wait() == 0, command.errors()
        assert command.events() == [{"id": batch_id, "sent": True, "rollouts": 8, "rewards": 8}]
        assert len(future.result(timeout_s=60)) == 8
    assert len(backend.judge.requests) == 8
    first, second = _shown(backend.folder, batch_id)["sent"]
    assert (first["host"], first["why"]) == (HERE, "submit")
    assert (second["host"], second["why"]) == (
        f"{socket.gethostname()}:{command.process.pid}",
        "oyer batches resume",
    )
    assert first["seen_at"] <= second["sent_at"] <= second["seen_at"]


def test_a_resubmission_by_the_trainer_is_recorded_with_the_reason(
    backend: Backend,
) -> None:
    with _half_judged(backend, "stalled", stall_timeout_s=0.5) as future:
        wait_until(lambda: _recorded(backend, future.batch_id)["submissions"] >= 2, "it came again")
        backend.judge.release()
        assert len(future.result(timeout_s=60)) == 8
    sent = _shown(backend.folder, future.batch_id)["sent"]
    assert [row["why"] for row in sent[:2]] == ["submit", "made no progress for 0.5 s"]
    assert {row["host"] for row in sent} == {HERE}


def test_a_resume_that_times_out_prints_one_line(backend: Backend) -> None:
    with _half_judged(backend, "late") as future:
        said = _refused(backend.folder, "resume", future.batch_id, "--timeout-s", "0.1")
    assert "did not end within 0.1 s" in said
    assert f"oyer batches show {future.batch_id}" in said
    assert len(future.result(timeout_s=60)) == 8


def test_a_cancelled_batch_is_recorded_with_the_host_that_cancelled_it(backend: Backend) -> None:
    with _half_judged(backend, "cancelled") as future:
        (state,) = _listed(backend.folder, "--run", "cancelled", "--status", "submitted")
        assert state["id"] == future.batch_id
        done = oyer("batches", "cancel", future.batch_id, "--json", *_CONFIG, cwd=backend.folder)
        assert json.loads(done.stdout) == {"id": future.batch_id, "status": "cancelled"}
        for command in ("cancel", "resume"):
            said = _refused(backend.folder, command, future.batch_id)
            assert "has ended already, cancelled at 20" in said
            assert f"oyer batches cancel ({socket.gethostname()}:" in said
    with pytest.raises(BatchCancelled, match="oyer batches cancel"):
        future.result(timeout_s=60)
    # What was in flight is judged and recorded, and counted at the end; the batch stays cancelled.
    wait_until(lambda: _recorded(backend, future.batch_id)["usage"] is not None, "it is counted")
    ended = _recorded(backend, future.batch_id)
    assert (ended["status"], ended["counts"]) == ("cancelled", {"scored": 8})
    assert ended["usage"] is not None
    assert ended["usage"]["calls"] == 8


def test_a_waiting_trainer_gets_an_error_when_its_batch_is_cancelled_elsewhere(
    tmp_path: Path, idle: RewardManager
) -> None:
    """No worker is running."""
    future = idle.submit([Rollout(**row) for row in rollout_rows("told", 4)], run="told")
    done = oyer("batches", "cancel", future.batch_id, *_CONFIG, cwd=tmp_path)
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
    done = oyer("batches", "cancel", left, *_CONFIG, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    shown = _shown(tmp_path, left)
    assert shown["status"] == "cancelled"
    assert "after its broker had ended" in shown["ending"]


def test_a_batch_cancelled_by_its_trainer_is_recorded_as_cancelled(backend: Backend) -> None:
    with _half_judged(backend, "trainer's own") as future:
        assert future.cancel()
        wait_until(
            lambda: _recorded(backend, future.batch_id)["status"] == "cancelled",
            "its end is on record while the judge still holds its calls",
        )
    assert _recorded(backend, future.batch_id)["ending"] == f"by the trainer ({HERE})"


def test_a_batch_abandoned_by_its_trainer_is_failed_until_it_is_resumed(backend: Backend) -> None:
    with _half_judged(backend, "given up") as future:
        future.give_up("made no progress; given up after 5 submissions")
        wait_until(lambda: _recorded(backend, future.batch_id)["status"] == "failed", "it failed")
        (state,) = _listed(backend.folder, "--run", "given up", "--status", "failed")
        assert state["ending"] == f"made no progress; given up after 5 submissions ({HERE})"
        options = ("--timeout-s", "60", *_CONFIG)
        with running("batches", "resume", state["id"], *options, cwd=backend.folder) as command:
            wait_until(
                lambda: _recorded(backend, future.batch_id)["status"] == "submitted",
                "it was resubmitted",
            )
            backend.judge.release()
            assert command.wait() == 0, command.errors()
    assert _recorded(backend, future.batch_id)["status"] == "finished"


@pytest.mark.parametrize("command", ["show", "resume", "cancel"])
def test_an_unknown_batch_is_an_error_of_one_line(backend: Backend, command: str) -> None:
    said = _refused(backend.folder, command, "no-such-batch")
    assert "batch no-such-batch: is not on record in store.url, nor queued on the broker" in said


@pytest.fixture
def idle(tmp_path: Path, redis_url: str, sqlite_url: str) -> RewardManager:
    """A trainer on a broker without workers; the folder holds the configuration."""
    migrations.upgrade(sqlite_url)
    config: dict[str, Any] = {
        "endpoints": {"fake": {"base_url": "http://127.0.0.1:9/v1"}},
        "judges": [{"name": "quality", "endpoint": "fake", "model": "m"}],
        "broker": {"url": redis_url},
        "store": {"url": sqlite_url},
    }
    (tmp_path / "oyer.yaml").write_text(yaml.safe_dump(config))
    return RewardManager(config)


def test_a_batch_that_waits_for_a_worker_is_queued_and_can_be_shown_and_cancelled(
    tmp_path: Path, idle: RewardManager
) -> None:
    future = idle.submit([Rollout(**row) for row in rollout_rows("queued", 4)], run="queued")
    (state,) = _listed(tmp_path, "--status", "queued")
    assert (state["id"], state["run"], state["size"]) == (future.batch_id, "queued", 4)
    assert _listed(tmp_path, "--status", "submitted") == []
    assert _listed(tmp_path, "--run", "another") == []
    shown = _shown(tmp_path, future.batch_id)
    assert [(row["host"], row["why"], row["seen_at"]) for row in shown["sent"]] == [
        (HERE, "submit", None)
    ]
    said = _refused(tmp_path, "resume", future.batch_id, "--timeout-s", "0.1")
    assert "4 of 4 verdicts are missing" in said
    assert [row["why"] for row in _shown(tmp_path, future.batch_id)["sent"]] == [
        "submit",
        "oyer batches resume",
    ]
    done = oyer("batches", "cancel", future.batch_id, *_CONFIG, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    future.cancel()


def test_resuming_a_batch_restarts_its_deadline(redis_url: str, idle: RewardManager) -> None:
    import redis

    from oyer.manager.backend.connection import backend

    future = idle.submit([Rollout(**row) for row in rollout_rows("old", 4)])
    exchange = BatchStore(redis.Redis.from_url(redis_url), expires_s=600)
    before = exchange.manifest(future.batch_id)
    assert backend(redis_url, idle.config.broker.result_expires_s).resume(future.batch_id, "again")
    after = exchange.manifest(future.batch_id)
    assert after.deadline > before.deadline
    assert after.deadline - before.deadline == pytest.approx(
        after.sendings[1].at - before.submitted_at, abs=1
    )
    future.cancel()


def test_a_batch_whose_payloads_have_expired_is_lost_and_can_be_cancelled(
    tmp_path: Path, idle: RewardManager, sqlite_url: str
) -> None:
    engine = open_engine(sqlite_url)
    with engine.begin() as conn:
        lost = ensure_run_and_batch(conn, make_batch()).batch_id
    engine.dispose()
    said = _refused(tmp_path, "resume", lost)
    assert "no longer in Redis" in said
    assert "submit its rollouts again" in said
    assert oyer("batches", "cancel", lost, *_CONFIG, cwd=tmp_path).returncode == 0
    assert _shown(tmp_path, lost)["status"] == "cancelled"


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
    said = _refused(tmp_path, "cancel", batch_id)
    assert "has ended already, finished at 2026-03-31 23:59:58 UTC" in said


def test_without_its_broker_the_record_is_still_listed(
    tmp_path: Path, idle: RewardManager, sqlite_url: str
) -> None:
    engine = open_engine(sqlite_url)
    with engine.begin() as conn:
        ensure_run_and_batch(conn, make_batch())
    engine.dispose()
    away = {"OYER_BROKER__URL": "redis://:hunter2@127.0.0.1:9/0"}
    done = oyer("batches", "list", *_CONFIG, cwd=tmp_path, **away)
    assert done.returncode == 0
    assert "tool-n1" in done.stdout
    assert "queued batches are not listed: broker 127.0.0.1:9/0 cannot be reached" in done.stderr
    done = oyer("batches", "cancel", "unknown", *_CONFIG, cwd=tmp_path, **away)
    assert done.returncode == 1
    assert "the broker cannot be asked" in done.stderr
    assert "hunter2" not in done.stderr


def test_the_beginning_of_an_id_is_enough(backend: Backend) -> None:
    batch_id = _score(backend, "short id")
    assert _shown(backend.folder, batch_id[:13])["id"] == batch_id
    resumed = oyer("batches", "resume", batch_id[:13], "--json", *_CONFIG, cwd=backend.folder)
    assert json.loads(resumed.stdout)["id"] == batch_id
    assert "is not on record" in _refused(backend.folder, "show", "%")
    shown = oyer("batches", "show", batch_id[:13], *_CONFIG, cwd=backend.folder).stdout
    assert "4 calls, " in shown
    assert " completion tokens, $" in shown
    assert " UTC\n" in shown


def test_an_ambiguous_beginning_names_some_ids(tmp_path: Path, sqlite_url: str) -> None:
    migrations.upgrade(sqlite_url)
    engine = open_engine(sqlite_url)
    ids = ["aaaa0000-0000-4000-8000-000000000001", "aaaa0000-0000-4000-8000-000000000002"]
    with engine.begin() as conn:
        for batch_id in ids:
            ensure_run_and_batch(conn, make_batch(id=batch_id))
    engine.dispose()
    done = oyer("batches", "show", "aaaa", cwd=tmp_path, OYER_STORE__URL=sqlite_url)
    assert done.returncode == 1
    assert "several ids begin so" in done.stderr
    assert all(batch_id in done.stderr for batch_id in ids)
