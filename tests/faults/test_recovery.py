"""A batch that makes no progress is resubmitted under its id, whatever was lost."""

import base64
import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from oyer.demo.responses import Action
from oyer.manager import BatchFailed, RewardBatch, RewardFuture
from oyer.manager.backend.connection import backend as manager_side
from oyer.protocol import names
from oyer.protocol.batch_store import BatchStore
from oyer.protocol.packing import WIRE_VERSION
from tests.support.fault_backend import JUDGE_IN_FLIGHT, Backend
from tests.support.paths import ROOT
from tests.support.rollouts import rollouts_of
from tests.support.waiting import wait_until

pytestmark = pytest.mark.faults

Undisturbed = Callable[[str, int], RewardBatch]
N = 48
EXACT = range(N, N + 1)
SOON_S = 1.0
"""A stall timeout shorter than the calls of these tests."""


def test_a_batch_sent_again_joins_the_calls_that_are_in_flight(
    backend: Backend, undisturbed: Undisturbed
) -> None:
    expected = undisturbed("join", N)
    future = backend.half_way("join", N, stall_timeout_s=SOON_S)
    exchange = BatchStore(backend.redis.client, expires_s=600)
    wait_until(lambda: exchange.manifest(future.batch_id).submission > 1, "submitted again")
    waiting = (names.JUDGE_QUEUE, names.FLOWS_KEY)
    wait_until(lambda: not backend.redis.client.exists(*waiting), "handed out again")
    backend.go_on()
    backend.check(future.result(timeout_s=180), expected, calls=EXACT)
    (state,) = backend.read("SELECT submissions FROM batches WHERE id = :id", id=future.batch_id)
    assert state["submissions"] > 1


def test_the_late_original_changes_nothing(backend: Backend, undisturbed: Undisturbed) -> None:
    """A stopped worker finishes its chunks after others did; its scores are ignored."""
    expected = undisturbed("late", N)
    first, second = backend.living("judge")
    second.kill()
    backend.judge.set_plan(Action(hold=True, text="Final score: 2"))
    future = backend.manager().submit(rollouts_of("late", N))
    backend.judge.wait_until(lambda log: len(log) == JUDGE_IN_FLIGHT)
    # Stopped inside this transaction, the worker would keep the others from the record.
    batch_row = "SELECT id FROM batches WHERE id = :id"
    wait_until(lambda: backend.read(batch_row, id=future.batch_id) != [], "the batch is on record")
    first.send(signal.SIGSTOP)
    backend.judge.set_plan({})
    backend.start("judge")
    batch = future.result(timeout_s=180)
    rows = "SELECT * FROM {} WHERE batch_id = :id ORDER BY rollout_index"
    written = [rows.format(table) for table in ("judgements", "rewards")]
    before = [backend.read(query, id=batch.id) for query in written]
    backend.judge.release()
    first.send(signal.SIGCONT)
    attempts = "SELECT count(*) AS n FROM attempts WHERE batch_id = :id"
    wait_until(
        lambda: backend.read(attempts, id=batch.id)[0]["n"] >= N + JUDGE_IN_FLIGHT,
        "the late calls are on record",
    )
    assert [backend.read(query, id=batch.id) for query in written] == before
    used = f"SELECT usage, ({attempts}) AS n FROM batches WHERE id = :id"
    (state,) = backend.read(used, id=batch.id)
    assert state["usage"]["calls"] == state["n"]
    backend.check(batch, expected, calls=range(N, N + JUDGE_IN_FLIGHT + 1))


def test_a_callback_that_was_lost_is_sent_again(backend: Backend, undisturbed: Undisturbed) -> None:
    expected = undisturbed("lost-callback", N)
    for worker in backend.living("combine"):
        worker.kill()
    future = backend.manager(stall_timeout_s=SOON_S).submit(rollouts_of("lost-callback", N))
    client = backend.redis.client
    wait_until(lambda: client.llen("combine") >= 1, "the callback was sent")
    client.delete("combine")
    backend.start("combine")
    backend.check(future.result(timeout_s=180), expected, calls=EXACT)


def test_combine_handles_repeated_reordered_and_missing_parts_and_logs_it(
    backend: Backend, undisturbed: Undisturbed
) -> None:
    expected = undisturbed("parts", N)
    for worker in backend.living("combine"):
        worker.kill()
    future = backend.manager(stall_timeout_s=600).submit(rollouts_of("parts", N))
    client = backend.redis.client
    wait_until(lambda: client.llen("combine") == 1, "the callback was sent")
    sent = client.lpop("combine")
    assert isinstance(sent, bytes)
    message = json.loads(sent)
    (parts,), *rest = json.loads(base64.b64decode(message["body"]))
    assert [part.get("chunk") for part in parts[:3]] == [0, 1, 2]
    doctored = [*parts[:0:-1], parts[1]]
    message["body"] = base64.b64encode(json.dumps([[doctored], *rest]).encode()).decode()
    client.lpush("combine", json.dumps(message))
    worker = backend.start("combine")
    batch = future.result(timeout_s=180)
    backend.check(batch, expected, calls=EXACT)
    assert batch.reasons.keys() == set(range(N))
    for words in (
        "chunk 1 arrived again: the first counts",
        "2, 1]: put in order",
        "chunks [0] did not arrive; all read from the record",
    ):
        assert words in worker.output()


def test_a_chord_that_was_never_counted_to_its_end_is_sent_again(
    backend: Backend, undisturbed: Undisturbed
) -> None:
    expected = undisturbed("lost-count", N)
    future = backend.half_way("lost-count", N, stall_timeout_s=SOON_S)
    counted = [*backend.redis.client.scan_iter("celery-taskset-meta-*", count=1000)]
    assert counted
    backend.redis.client.delete(*counted)
    backend.go_on()
    backend.check(future.result(timeout_s=180), expected, calls=EXACT)


def test_a_small_batch_replaces_a_stored_result_that_cannot_be_read(
    backend: Backend, undisturbed: Undisturbed
) -> None:
    expected = undisturbed("wrong-result", 4)
    backend.judge.set_plan(Action(hold=True))
    future = backend.manager(stall_timeout_s=600).submit(rollouts_of("wrong-result", 4))
    backend.judge.wait_until(lambda log: len(log) == 4)
    backend.redis.client.rpush(f"celery-task-meta-{future.batch_id}", "not a result")
    backend.go_on()
    backend.check(future.result(timeout_s=180), expected, calls=range(4, 5))


def test_a_result_that_expired_is_read_from_the_record(
    backend: Backend, undisturbed: Undisturbed
) -> None:
    expected = undisturbed("expired", N)
    future = backend.manager().submit(rollouts_of("expired", N))
    future.result(timeout_s=180)
    client = backend.redis.client
    held = [*client.scan_iter(f"*{future.batch_id}*", count=1000)]
    assert held
    for key in held:
        client.pexpire(key, 1)
    wait_until(lambda: not client.exists(*held), "expired")
    reopened = RewardFuture.from_ticket(future.ticket)
    backend.check(reopened.result(timeout_s=180), expected, calls=EXACT)


def test_an_operator_resumes_a_batch_whose_trainer_and_messages_are_gone(
    backend: Backend, undisturbed: Undisturbed
) -> None:
    expected = undisturbed("resume", N)
    for worker in backend.living("judge"):
        worker.kill()
    manager = backend.manager(stall_timeout_s=600)
    future = manager.submit(rollouts_of("resume", N))
    backend.redis.client.delete(names.JUDGE_QUEUE)
    backend.start("judge")
    backend.wait_ready()
    resume = [sys.executable, "-m", "oyer.cli", "batches", "resume", future.batch_id]
    resume += ["--config", str(backend.folder / "oyer.json"), "--timeout-s", "60"]
    done = subprocess.run(
        resume, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert f"batch {future.batch_id}: {N} of {N} rollouts have a reward" in done.stdout
    backend.check(future.result(timeout_s=180), expected, calls=EXACT)


def test_a_newer_message_is_refused_by_older_workers_and_kept_for_newer_ones(
    backend: Backend, undisturbed: Undisturbed
) -> None:
    expected = undisturbed("newer", N)
    with _newer_release():
        refused = backend.manager().submit(rollouts_of("newer", N))
        with pytest.raises(BatchFailed, match=r"MessageRefused.*upgrade the older side"):
            refused.result(timeout_s=180)
        assert backend.judge.requests == []
        for worker in backend.workers:
            worker.kill()
        for kind in names.QUEUES:
            backend.start(kind, "next-release")
        backend.wait_ready()
        manager_side(backend.redis.url, 86_400).resubmit(refused.batch_id, "again")
        batch = RewardFuture.from_ticket(refused.ticket).result(timeout_s=180)
    backend.check(batch, expected, calls=EXACT)
    for worker in backend.workers:
        worker.kill()


@contextlib.contextmanager
def _newer_release() -> Iterator[None]:
    """Raise this process's wire version to that of a later release."""
    trainer_side = ("oyer.manager.", "oyer.protocol.")
    with pytest.MonkeyPatch.context() as patch:
        for name, module in list(sys.modules.items()):
            if name.startswith(trainer_side) and hasattr(module, "WIRE_VERSION"):
                patch.setattr(module, "WIRE_VERSION", WIRE_VERSION + 1)
        yield
