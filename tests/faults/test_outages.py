"""Outages of Redis, the database and the trainer: nothing is lost, nothing is paid twice."""

import contextlib
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import pytest

from oyer.demo.responses import Action
from oyer.manager import BackendUnavailable, RewardBatch, RewardFuture
from oyer.protocol import redis_client
from tests.support.fault_backend import JUDGE_IN_FLIGHT, Backend
from tests.support.fault_servers import PostgresServer, RedisServer
from tests.support.paths import ROOT
from tests.support.rollouts import rollouts_of
from tests.support.waiting import wait_until

pytestmark = pytest.mark.faults

Undisturbed = Callable[[str, int], RewardBatch]
N = 48
EXACT = range(N, N + 1)
WITH_REPEATS = range(N, N + JUDGE_IN_FLIGHT + 1)
"""Calls that were in flight at the fault may be made a second time, and no others."""


def test_redis_is_flushed(backend: Backend, undisturbed: Undisturbed) -> None:
    expected = undisturbed("flush", N)
    future = backend.half_way("flush", N)
    backend.redis.client.flushall()
    backend.go_on()
    backend.check(future.result(timeout_s=120), expected, calls=WITH_REPEATS)


def test_redis_is_flushed_after_the_batch_ended(backend: Backend, undisturbed: Undisturbed) -> None:
    """A ticket finds the rewards on record; nothing of the batch is left in Redis."""
    expected = undisturbed("flush-end", N)
    future = backend.manager().submit(rollouts_of("flush-end", N))
    future.result(timeout_s=180)
    backend.redis.client.flushall()
    reopened = RewardFuture.from_ticket(future.ticket).result(timeout_s=180)
    backend.check(reopened, expected, calls=EXACT)
    assert reopened.usage == future.result().usage
    assert reopened.terms.keys() == expected.terms.keys()


def test_every_connection_to_redis_is_cut(backend: Backend, undisturbed: Undisturbed) -> None:
    expected = undisturbed("cut", N)
    future = backend.half_way("cut", N)
    for kind in ("normal", "pubsub"):
        backend.redis.client.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
    backend.go_on()
    backend.check(future.result(timeout_s=120), expected, calls=WITH_REPEATS)


@pytest.mark.slow
def test_redis_answers_nothing_for_ten_seconds(
    backend: Backend, undisturbed: Undisturbed, redis_part: RedisServer
) -> None:
    expected = undisturbed("redis-pause", N)
    future = backend.half_way("redis-pause", N)
    with redis_part.paused():
        backend.go_on()
        threading.Event().wait(10)  # the fault itself: a pause of stated length
    backend.check(future.result(timeout_s=120), expected, calls=WITH_REPEATS)


@pytest.mark.parametrize(
    ("begin", "end"),
    [
        (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE")),
        (
            ("CONFIG", "SET", "min-replicas-to-write", "1"),
            ("CONFIG", "SET", "min-replicas-to-write", "0"),
        ),
    ],
    ids=["replica", "too few replicas"],
)
def test_redis_refuses_writes_as_in_a_failover(
    backend: Backend, undisturbed: Undisturbed, begin: tuple[str, ...], end: tuple[str, ...]
) -> None:
    expected = undisturbed(begin[1], N)
    future = backend.half_way(begin[1], N)
    living = [worker for worker in backend.workers if worker.alive]
    client = backend.redis.client
    client.execute_command(*begin)
    later = threading.Timer(1, client.execute_command, end)
    try:
        backend.go_on()
        threading.Event().wait(6)  # the fault itself: a pause of stated length
        later.start()
        meanwhile = backend.manager().submit(rollouts_of(f"{begin[1]}, submitted meanwhile", 4))
    finally:
        client.execute_command(*end)
    backend.check(future.result(timeout_s=120), expected, calls=range(N, N + JUDGE_IN_FLIGHT + 5))
    assert meanwhile.result(timeout_s=120).statuses == ["scored"] * 4
    assert all(worker.alive for worker in living)


def test_a_full_redis_refuses_a_batch_and_finishes_those_it_has(
    backend: Backend, undisturbed: Undisturbed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_client, "REFUSED_S", 0.0)
    expected = undisturbed("full", N)
    future = backend.half_way("full", N)
    client = backend.redis.client
    client.config_set("maxmemory", 1)
    try:
        with pytest.raises(BackendUnavailable, match="maxmemory"):
            backend.manager().submit(rollouts_of("too much", 4))
        backend.go_on()
        backend.judge.wait_until(lambda log: all(a.finished_at_s for a in log))
    finally:
        client.config_set("maxmemory", 0)
    backend.check(future.result(timeout_s=120), expected, calls=WITH_REPEATS)


def test_postgres_restarts(
    backend: Backend, undisturbed: Undisturbed, postgres_part: PostgresServer
) -> None:
    expected = undisturbed("pg-restart", N)
    future = backend.half_way("pg-restart", N)
    postgres_part.kill()
    backend.go_on()
    backend.judge.wait_until(lambda log: all(a.finished_at_s for a in log))
    postgres_part.start()
    backend.check(future.result(timeout_s=120), expected, calls=EXACT)


def test_connections_to_postgres_are_terminated(
    backend: Backend, undisturbed: Undisturbed, postgres_part: PostgresServer
) -> None:
    expected = undisturbed("pg-cut", N)
    future = backend.half_way("pg-cut", N)
    with postgres_part.locked("judgements"):
        backend.go_on()
        wait_until(lambda: postgres_part.waiting_for("judgements") > 0, "a chunk waits to write")
        postgres_part.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_locks"
            " WHERE NOT granted AND relation = 'judgements'::regclass"
        )
    backend.check(future.result(timeout_s=120), expected, calls=EXACT)


@pytest.mark.slow
def test_postgres_answers_nothing_for_ten_seconds(
    backend: Backend, undisturbed: Undisturbed, postgres_part: PostgresServer
) -> None:
    expected = undisturbed("pg-pause", N)
    future = backend.half_way("pg-pause", N)
    with postgres_part.paused():
        backend.go_on()
        threading.Event().wait(10)  # the fault itself: a pause of stated length
    backend.check(future.result(timeout_s=120), expected, calls=EXACT)


def test_a_trainer_that_is_killed_is_followed_by_one_with_its_ticket(
    backend: Backend, undisturbed: Undisturbed
) -> None:
    expected = undisturbed("ticket", N)
    backend.judge.set_plan(Action(hold=True))
    with _trainer(backend, "ticket") as (trainer, ticket):
        backend.judge.wait_until(lambda log: len(log) == JUDGE_IN_FLIGHT)
        trainer.kill()
    # Without the trainer, its rollouts are only in Redis.
    for worker in backend.living("judge"):
        worker.kill()
    backend.go_on()
    backend.start("judge")
    batch = RewardFuture.from_ticket(ticket).result(timeout_s=120)
    backend.check(batch, expected, calls=WITH_REPEATS)


@contextlib.contextmanager
def _trainer(backend: Backend, tag: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Submit from another process, which prints its ticket and waits for the result."""
    code = (
        "import sys\n"
        "from oyer.manager import RewardManager\n"
        "from tests.support.rollouts import rollouts_of\n"
        "future = RewardManager.from_file(sys.argv[1]).submit(rollouts_of(sys.argv[2], 48))\n"
        "print(future.ticket, flush=True)\n"
        "future.result()\n"
    )
    argv = [sys.executable, "-c", code, str(backend.folder / "oyer.json"), tag]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        yield process, process.stdout.readline().strip()
