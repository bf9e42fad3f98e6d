"""Messages of single rollouts, and rollouts while the broker is unreachable or full."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oyer.manager import BackendUnavailable, RewardManager, Rollout
from oyer.manager.score import Score
from oyer.manager.streaming import batching_window, group_queue, identity, stream
from oyer.manager.streaming.pending import Pending
from oyer.protocol.batch_store import Backlog
from oyer.protocol.errors import Overloaded
from tests.manager.conftest import JUDGE, Workers
from tests.support.fault_servers import RedisServer

pytestmark = pytest.mark.filterwarnings(
    "ignore:Call to deprecated setex:DeprecationWarning"  # Celery 5.7 on redis-py 8
)

BAND = {"method": "median_band"}
WAIT_S = 60.0


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path / "redis")
    server.start()
    yield server
    server.stop()


def manager_on(url: str, **keys: Any) -> RewardManager:
    return RewardManager({"judges": [JUDGE], "broker": {"url": url}, **keys})


def members_of(group: str, n: int) -> list[Rollout]:
    return [
        Rollout(
            prompt="p",
            response=f"{group} {i}",
            group_id=group,
            base_score=1.0,
            response_tokens=9,
        )
        for i in range(n)
    ]


def batch_ids(workers: Workers) -> list[str]:
    """Return the batches whose payloads are in Redis."""
    keys: list[Any] = workers.redis.keys("oyer:batch:*:manifest")
    return [key.decode().split(":")[2] for key in keys]


def end_all(workers: Workers, *pending: Pending[Score]) -> None:
    """Store results of all batches until every rollout has a score."""
    deadline = time.monotonic() + WAIT_S
    while not all(one.done() for one in pending):
        assert time.monotonic() < deadline
        # Repeated, because a submission deletes an earlier result.
        time.sleep(0.005)
        for batch_id in batch_ids(workers):
            manifest = workers.exchange.manifest(batch_id)
            n, with_length = manifest.size, bool(manifest.plan["length"])
            terms = {"base_score": np.ones(n, np.float32)}
            if with_length:
                terms["length_penalty"] = -np.arange(n, dtype=np.float32)
            rewards = np.ones(n, np.float32) + terms.get("length_penalty", 0)
            unshaped = np.ones(n, np.float32)
            workers.succeed(batch_id, n=n, rewards=rewards, unshaped_rewards=unshaped, terms=terms)


def judge_tasks(workers: Workers) -> int:
    """Count the messages to judges."""
    return workers.sent("judge")


@pytest.mark.parametrize("compares", [False, True])
def test_a_thousand_single_rollouts_take_about_the_tasks_of_one_batch(
    redis_url: str, workers: Workers, compares: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So long that a busy machine does not interrupt the burst.
    monkeypatch.setattr(batching_window, "MAX_WINDOW_S", 2.0)
    manager = manager_on(redis_url, length=BAND if compares else [])
    rollouts = [one for k in range(125) for one in members_of(f"g{k}", 8)]
    manager.submit(rollouts).cancel()
    of_a_batch = judge_tasks(workers)
    workers.redis.flushall()
    pending = [manager.score(one, group_size=8) for one in rollouts]
    end_all(workers, *pending)
    assert len(batch_ids(workers)) <= 8
    assert judge_tasks(workers) <= 3 * of_a_batch
    sizes = [workers.exchange.manifest(batch_id).size for batch_id in batch_ids(workers)]
    assert sum(sizes) >= len(rollouts)


def test_a_group_that_is_complete_soon_is_one_batch(
    redis_url: str, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "EARLY_WINDOW_S", WAIT_S)
    manager = manager_on(redis_url, length=BAND)
    members = members_of("soon", 3)
    pending = [manager.score(one, group_size=3) for one in members[:2]]
    while not workers.redis.keys("oyer:group:*:rows"):
        assert not any(one.done() for one in pending)
    pending.append(manager.score(members[2], group_size=3))
    end_all(workers, *pending)
    assert len(batch_ids(workers)) == 1


def test_without_a_broker_a_rollout_fails_and_can_be_submitted_again(
    server: RedisServer,
) -> None:
    manager = manager_on(server.url, length=BAND)
    members = members_of("away", 2)
    server.kill()
    for pending in [manager.score(one, group_size=2) for one in members]:
        with pytest.raises(BackendUnavailable, match="start it with `oyer up`"):
            pending.result(WAIT_S)
    server.start()
    again = [manager.score(one, group_size=2) for one in members]
    end_all(Workers(server.url), *again)
    assert [one.result(0).length_term for one in again] == [0, -1]


def test_a_group_survives_an_outage_of_the_broker(server: RedisServer) -> None:
    manager = manager_on(server.url, length=BAND)
    members = members_of("outage", 3)
    workers = Workers(server.url)
    pending = manager.score_many(members[:2], group_size=3).scores
    workers.wait_for_sent(1)
    server.kill()
    server.start()
    pending.append(manager.score(members[2], group_size=3))
    end_all(workers, *pending)
    assert [one.result(0).length_term for one in pending] == [0, -1, -2]


def test_a_group_survives_a_broker_that_restarts_empty(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_queue, "READ_PAUSE_S", 0.05)
    manager = manager_on(server.url, length=BAND)
    members = members_of("empty", 3)
    workers = Workers(server.url)
    pending = manager.score_many(members[:2], group_size=3).scores
    workers.wait_for_sent(1)
    server.kill()
    server.forget()
    server.start()
    workers.wait_for_sent(1)
    pending.append(manager.score(members[2], group_size=3))
    end_all(workers, *pending)
    assert sorted(one.result(0).length_term for one in pending) == [-2, -1, 0]


def test_a_group_closed_during_an_outage_is_closed_after_it(server: RedisServer) -> None:
    manager = manager_on(server.url, length=BAND)
    where: dict[str, Any] = {"group_size": 3, "group_timeout_s": 600}
    workers = Workers(server.url)
    pending = manager.score_many(members_of("closed", 2), **where).scores
    workers.wait_for_sent(1)
    server.kill()
    closed = manager.close_groups(["closed"], absent=1, **where)
    server.start()
    end_all(workers, *pending)
    closed.result(WAIT_S)
    assert [one.result(0).length_term for one in pending] == [0, -1]


def test_a_group_that_cannot_be_closed_until_it_is_overdue_is_left_to_its_timeout(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity, "GROUP_TIMEOUT_S", 0.05)
    manager = manager_on(server.url, length=BAND)
    server.kill()
    with pytest.raises(BackendUnavailable):
        manager.close_groups(["never"], group_size=3).result(WAIT_S)


def test_a_group_over_the_backlog_limit_fails_and_can_be_submitted_again(
    redis_url: str, workers: Workers
) -> None:
    broker = {"url": redis_url, "max_backlog_bytes": 2**20}
    manager = manager_on(redis_url, length=BAND, broker=broker)
    backlog = Backlog(workers.redis, expires_s=600)
    backlog.enter("much", 2**21, None)
    members = members_of("full", 2)
    for pending in [manager.score(one, group_size=2) for one in members]:
        with pytest.raises(Overloaded, match="wait for earlier batches"):
            pending.result(WAIT_S)
    backlog.leave("much")
    again = [manager.score(one, group_size=2) for one in members]
    end_all(workers, *again)
    assert [one.result(0).length_term for one in again] == [0, -1]


@pytest.mark.parametrize("timeout_s", [-1, float("nan"), float("inf"), "60"])
def test_an_invalid_timeout_is_refused(redis_url: str, timeout_s: Any) -> None:
    manager = manager_on(redis_url, length=BAND)
    with pytest.raises(ValueError, match=r"^group_timeout_s: "):
        manager.score(members_of("t", 1)[0], group_size=2, group_timeout_s=timeout_s)


def test_a_group_with_a_batch_keeps_no_copy_of_its_rollouts_in_redis(
    redis_url: str, workers: Workers
) -> None:
    manager = manager_on(redis_url, length=BAND)
    pending = [manager.score(one, group_size=2) for one in members_of("once", 2)]
    end_all(workers, *pending)
    keys: list[Any] = workers.redis.keys("oyer:group:*")
    assert not [key for key in keys if key.endswith(b":rows")]
    assert sum(workers.redis.memory_usage(key) or 0 for key in keys) < 2048
