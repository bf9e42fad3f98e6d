"""A trainer that is faster than its judges is told so, before Redis is full."""

import random

import pytest

from oyer.manager import RewardManager, Rollout
from oyer.tasks.errors import Overloaded
from oyer.tasks.names import BACKLOG_KEY
from tests.manager.conftest import JUDGE, Workers

LIMIT_BYTES = 2**20


@pytest.fixture
def manager(redis_url: str) -> RewardManager:
    broker = {"url": redis_url, "max_backlog_bytes": LIMIT_BYTES}
    return RewardManager({"judges": [JUDGE], "broker": broker})


def big_rollouts() -> list[Rollout]:
    """Make rollouts that no compression gets below the limit."""
    noise = random.Random(1).randbytes(LIMIT_BYTES).hex()
    return [Rollout(prompt="p", response=noise, group_id="g", base_score=1.0)]


def test_a_batch_is_refused_while_too_much_is_under_way(
    manager: RewardManager, workers: Workers
) -> None:
    first = manager.submit(big_rollouts())
    assert workers.exchange.backlog_bytes() > LIMIT_BYTES
    keys = set(workers.redis.keys())
    with pytest.raises(Overloaded, match=r"more than broker\.max_backlog_bytes = 1048576: wait"):
        manager.submit(big_rollouts())
    assert set(workers.redis.keys()) == keys, "nothing is half-submitted"
    workers.exchange.discard(workers.exchange.manifest(first.batch_id))
    assert workers.exchange.backlog_bytes() == 0
    second = manager.submit(big_rollouts())
    for future in (first, second):
        future.cancel()


def test_a_batch_whose_payloads_expired_no_longer_counts(workers: Workers) -> None:
    workers.redis.hset(BACKLOG_KEY, mapping={"gone": "5 1", "there": "7 99999999999"})
    assert workers.exchange.backlog_bytes() == 7
    assert workers.redis.hkeys(BACKLOG_KEY) == [b"there"]
