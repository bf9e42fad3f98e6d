"""Workers killed at any moment: the batch ends with the same rewards, paid for once."""

import random
import re
import signal
from collections.abc import Callable
from typing import Any

import pytest
import redis

from oyer.demo.responses import Action
from oyer.manager import RewardBatch
from oyer.protocol import names
from oyer.protocol.batch_store import BatchStore
from tests.support.fault_backend import JUDGE_IN_FLIGHT, Backend
from tests.support.fault_servers import PostgresServer
from tests.support.rollouts import rollouts_of
from tests.support.waiting import wait_until

pytestmark = pytest.mark.faults

Undisturbed = Callable[[str, int], RewardBatch]
N = 48
RUNS = 20
"""Random points at which each kind of worker ends, by each signal."""


@pytest.mark.slow
def test_all_judge_workers_killed_and_one_started(
    backend: Backend, undisturbed: Undisturbed
) -> None:
    expected = undisturbed("judges-kill", N)
    backend.judge.set_plan(Action(hold=True))
    future = backend.manager().submit(rollouts_of("judges-kill", N))
    backend.judge.wait_until(lambda log: len(log) == JUDGE_IN_FLIGHT)
    for worker in backend.living("judge"):
        worker.kill()
    backend.judge.set_plan({})
    backend.start("judge")
    batch = future.result(timeout_s=180)
    backend.check(batch, expected, calls=range(N, N + JUDGE_IN_FLIGHT + 1))


def test_the_answered_calls_of_killed_workers_are_on_record(
    backend: Backend, undisturbed: Undisturbed
) -> None:
    expected = undisturbed("paid-kill", N)
    future = backend.half_way("paid-kill", N)
    for worker in backend.living("judge"):
        worker.kill()
    backend.go_on()
    backend.start("judge")
    batch = future.result(timeout_s=180)
    backend.check(batch, expected, calls=range(N, N + JUDGE_IN_FLIGHT + 1))
    query = "SELECT count(*) AS n, sum(prompt_tokens) AS tokens FROM {} WHERE batch_id = :id"
    (attempts,) = backend.read(query.format("attempts"), id=batch.id)
    (judgements,) = backend.read(query.format("judgements"), id=batch.id)
    assert attempts == judgements
    assert (attempts["n"], attempts["tokens"]) == (N, expected.usage.prompt_tokens)
    assert batch.usage == expected.usage


@pytest.mark.parametrize("killed", [1, 2])
def test_judge_workers_killed_with_a_backlog(
    backend: Backend, undisturbed: Undisturbed, killed: int
) -> None:
    """Most messages wait in the list of their flow; leases alone bring back those of the dead."""
    count, tag = 8 * N, f"backlog-{killed}"
    expected = undisturbed(tag, count)
    backend.judge.set_plan(Action(hold=True))
    future = backend.manager(stall_timeout_s=600).submit(rollouts_of(tag, count))
    backend.judge.wait_until(lambda log: len(log) == JUDGE_IN_FLIGHT)
    client = backend.redis.client
    chunks = len(BatchStore(client, expires_s=600).manifest(future.batch_id).chunks)

    def sorted_messages() -> int:
        (flow,) = [*client.scan_iter(names.flow_key("*"), count=1000)] or [names.flow_key("")]
        return client.llen(flow) + client.hlen("unacked")

    # A message that a worker has read and not yet sorted is lost with it; the future resubmits it.
    wait_until(lambda: sorted_messages() == chunks, "every message is in the list or leased")
    assert 0 < client.hlen("unacked") < chunks
    for worker in backend.living("judge")[:killed]:
        worker.kill()
    backend.judge.set_plan({})
    backend.judge.release()
    if killed == 2:
        backend.start("judge")
    batch = future.result(timeout_s=120)
    backend.check(batch, expected, calls=range(count, count + JUDGE_IN_FLIGHT + 1))


def test_a_length_worker_killed_with_a_message_that_redis_has_forgotten(
    backend: Backend, undisturbed: Undisturbed
) -> None:
    """A message lost between Redis and the worker is only known to the future."""
    expected = undisturbed("length-kill", N)
    for worker in backend.living("length"):
        worker.kill()
    future = backend.manager().submit(rollouts_of("length-kill", N))
    client = backend.redis.client
    wait_until(lambda: client.llen("length") == 1, "the message was sent")
    client.delete("length")  # as handed out to a worker that died at once
    backend.start("length")
    batch = future.result(timeout_s=180)
    backend.check(batch, expected, calls=range(N, N + 1))


def test_a_combine_worker_killed_while_it_writes(
    backend: Backend, undisturbed: Undisturbed, postgres_part: PostgresServer
) -> None:
    expected = undisturbed("combine-kill", N)
    (worker,) = backend.living("combine")
    with postgres_part.locked("rewards"):
        future = backend.manager().submit(rollouts_of("combine-kill", N))
        wait_until(lambda: postgres_part.waiting_for("rewards") > 0, "combine waits for the lock")
        worker.kill()
    backend.start("combine")
    batch = future.result(timeout_s=180)
    backend.check(batch, expected, calls=range(N, N + 1))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", ["judge", "length", "combine"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=lambda n: n.name)
def test_a_worker_that_ends_at_a_random_point_changes_no_reward(
    backend: Backend,
    undisturbed: Undisturbed,
    rng: random.Random,
    kind: str,
    number: signal.Signals,
) -> None:
    """Only a judge worker's death can cost calls; one that is told to stop ends its own."""
    tag = f"{kind}-{number.name}"
    expected = undisturbed(tag, N)
    for run in range(RUNS):
        backend.complete()
        backend.judge.reset()
        backend.judge.set_plan({"default": {"latency_s": {"uniform": [0.0, 0.2], "seed": 1}}})
        after = rng.randint(1, N)
        print(f"run {run}: {number.name} to {kind} after {after} calls")
        future = backend.manager().submit(rollouts_of(tag, N))
        backend.judge.wait_until(lambda log, after=after: len(log) >= after)  # type: ignore[misc]
        worker = rng.choice(backend.living(kind))
        worker.send(number)
        again = 0
        if kind == "judge" and number is signal.SIGKILL:
            again = JUDGE_IN_FLIGHT
        if kind != "judge":
            backend.start(kind)
        batch = future.result(timeout_s=120)
        backend.check(batch, expected, calls=range(N, N + again + 1))
        assert worker.process.wait(60) == (0 if number is signal.SIGTERM else -number)


def test_clocks_that_are_half_a_minute_wrong_lose_no_message_and_repeat_none(
    backend: Backend, undisturbed: Undisturbed
) -> None:
    expected = undisturbed("skew", N)
    for worker in backend.living("judge"):
        worker.kill()
    fast, slow = (backend.start("judge", "clock", skew, loglevel="DEBUG") for skew in ("30", "-30"))
    backend.wait_ready()
    backend.judge.set_plan(Action(hold=True))
    future = backend.manager(stall_timeout_s=600).submit(rollouts_of("skew", N))
    backend.judge.wait_until(lambda log: len(log) == JUDGE_IN_FLIGHT)
    client = backend.redis.client
    for _ in range(2):  # twice, each worker has renewed its leases and swept the others'
        before = _leases(client)
        wait_until(
            lambda before=before: all(  # type: ignore[misc]
                stamp > before.get(tag, 0.0) for tag, stamp in _leases(client).items()
            ),
            "leases renewed",
        )
    received = "".join(worker.output() for worker in (fast, slow)).count("judge.chunk[")
    assert received == N // 4, "no chunk was handed out twice"
    fast.kill()
    backend.judge.set_plan({})
    backend.judge.release()
    batch = future.result(timeout_s=180)
    backend.check(batch, expected, calls=range(N, N + JUDGE_IN_FLIGHT + 1))
    slow.kill()


@pytest.mark.parametrize("skew_s", ["7200", "-7200"])
def test_a_batch_has_its_time_whatever_the_clocks_of_the_workers_say(
    backend: Backend, skew_s: str
) -> None:
    for kind in ("judge", "combine"):
        for worker in backend.living(kind):
            worker.kill()
    workers = [backend.start(kind, "clock", skew_s) for kind in ("judge", "combine")]
    backend.wait_ready()
    rollouts = rollouts_of(f"clock {skew_s}", 4)
    future = backend.manager(deadline_s=3600).submit(rollouts)
    assert future.result(timeout_s=120).statuses == ["scored"] * 4
    lines = re.compile(rf"batch {future.batch_id} .* has ended: .*, (-?[\d.]+) s")
    wait_until(lambda: any(lines.search(one.output()) for one in workers), "the end is logged")
    [took_s] = [float(found) for one in workers for found in lines.findall(one.output())]
    assert 0 <= took_s < 7200
    for worker in workers:
        worker.kill()


def _leases(client: redis.Redis) -> dict[bytes, float]:
    """Return the time of each unacknowledged message's last lease."""
    found: Any = client.zrange("unacked_index", 0, -1, withscores=True)
    return dict(found)
