"""Two hundred batches leave nothing behind: no memory, connection, thread, descriptor or key."""

from collections.abc import Iterator
from typing import Any

import pytest
import redis

from oyer.demo.judge_server import JudgeServer
from oyer.manager import BatchCancelled, RewardFuture, RewardManager
from oyer.protocol import names
from oyer.protocol.batch_store import ENDED_S, BatchStore
from tests.support.process_memory import MIB, Held, held_by, immortal_keys, processes_of
from tests.support.rollouts import rollout
from tests.support.scripted_backend import DEAD_JUDGE, scripted_backend, sibling
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

WARM_UP, BATCHES = 60, 200
ROLLOUTS = 32

SPARE = 40
"""Threads, descriptors or connections more than after the warm-up that pools may still open, the
32 kept to the judge above all; one left behind by each batch would be 200."""

SPARE_BYTES = 16 * MIB
"""Memory more than after the warm-up that an allocator may still take: 80 KiB a batch, where each
batch carries 32 rollouts through every process."""

METRICS = b"oyer:metrics:"
"""The counters of `oyer metrics`: a few keys, kept for 14 days."""

CHORD_MARK = b"celery-taskset-meta-"
"""Celery's mark that a chord has fired: some bytes for each batch, for `result_expires_s`."""


@pytest.fixture(scope="module")
def running(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[RewardManager, JudgeServer]]:
    folder = tmp_path_factory.mktemp("soak")
    with scripted_backend(folder, length={"method": "median_band"}) as both:
        yield both


class Soak:
    """Scores batch after batch through every interface."""

    def __init__(self, manager: RewardManager, judge: JudgeServer) -> None:
        self._judge = judge
        self.managers = [
            manager,
            sibling(manager, length={"method": "gr3", "quality": "judge"}),
            sibling(manager, judges=[DEAD_JUDGE]),
            sibling(manager, reuse="run"),
        ]
        self.done = 0

    def run(self, batches: int) -> None:
        """Score some batches, three under way at a time."""
        under_way: list[tuple[int, RewardFuture]] = []
        for number in range(self.done, self.done + batches):
            rollouts = [rollout(f"soak {number}", i) for i in range(ROLLOUTS)]
            manager = self.managers[number % len(self.managers)]
            # The judge runs in this process; its log must not count as a leak.
            self._judge.reset()
            if number % 9 == 5:
                scores = self.managers[0].score_many(rollouts, run="soak")
                assert len(scores.result(timeout_s=120)) == ROLLOUTS
                continue
            under_way.append((number, manager.submit(rollouts, run="soak")))
            if number % 13 == 7:
                under_way[-1][1].cancel()
            if len(under_way) > 3:
                self._end(*under_way.pop(0))
        for one in under_way:
            self._end(*one)
        self.done += batches

    def _end(self, number: int, future: RewardFuture) -> None:
        if number % 10 == 3:
            future = RewardFuture.from_ticket(future.ticket)
        try:
            assert len(future.result(timeout_s=120)) == ROLLOUTS
        except BatchCancelled:
            assert number % 13 == 7


def settle(client: redis.Redis) -> None:
    """Wait until the workers have nothing left to do, a cancelled batch's tasks included."""
    exchange = BatchStore(client, expires_s=600)
    wait_until(
        lambda: (
            not any(client.llen(queue) for queue in names.QUEUES)
            and not client.hlen("unacked")
            and not exchange.backlog_bytes()
        ),
        "no work left",
    )


def test_two_hundred_batches_leave_nothing_behind(
    running: tuple[RewardManager, JudgeServer],
) -> None:
    manager, judge = running
    soak, pids = Soak(manager, judge), processes_of(manager)
    with redis.Redis.from_url(str(manager.config.broker.url)) as client:
        soak.run(WARM_UP)
        settle(client)
        first, first_redis = _look(pids), client.info()
        soak.run(BATCHES)
        settle(client)
        last, last_redis = _look(pids), client.info()
        print("\n" + _table(first, last))
        for key in ("used_memory", "connected_clients"):
            print(f"redis {key}: {first_redis[key]} -> {last_redis[key]}")
        assert processes_of(manager) == pids
        for name, then in first.items():
            now = last[name]
            assert now.threads <= then.threads + SPARE, name
            assert now.descriptors <= then.descriptors + SPARE, name
            assert now.rss_bytes <= then.rss_bytes + SPARE_BYTES, name
        assert last_redis["connected_clients"] <= first_redis["connected_clients"] + SPARE
        assert immortal_keys(client) == []
        lasting = {
            key: client.ttl(key)
            for key in client.scan_iter(count=1000)
            if client.ttl(key) > ENDED_S and not key.startswith((CHORD_MARK, METRICS))
        }
        assert lasting == {}


def _look(pids: dict[str, int]) -> dict[str, Held]:
    return {name: held_by(pid) for name, pid in pids.items()}


def _table(first: dict[str, Held], last: dict[str, Held]) -> str:
    def line(name: str) -> str:
        then, now = first[name], last[name]
        memory = f"{then.rss_bytes / MIB:.1f} -> {now.rss_bytes / MIB:.1f} MiB"
        others: Any = f"{then.threads} -> {now.threads}, {then.descriptors} -> {now.descriptors}"
        return f"{name}: {memory}; threads, descriptors {others}"

    return "\n".join(line(name) for name in first)
