"""A submission over the backlog limit is refused before Redis is full."""

import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from oyer.manager import RewardFuture, RewardManager, Rollout
from oyer.manager.backend.connection import backend
from oyer.manager.backend.prepare import prepare
from oyer.protocol.batch_store import ABANDONED_S
from oyer.protocol.errors import BatchFailed, InvalidConfig, Overloaded
from oyer.protocol.names import BACKLOG_ENDS_KEY, batch_key
from tests.manager.conftest import JUDGE, Workers

pytestmark = pytest.mark.filterwarnings(
    "ignore:Call to deprecated setex:DeprecationWarning"  # Celery 5.7 on redis-py 8
)

LIMIT_BYTES = 2**20


@pytest.fixture
def manager(redis_url: str) -> RewardManager:
    broker = {"url": redis_url, "max_backlog_bytes": LIMIT_BYTES}
    return RewardManager({"judges": [JUDGE], "broker": broker})


def rollouts_of_size(size_bytes: float) -> list[Rollout]:
    """Make rollouts that take about so many bytes, packed: two hexadecimal digits for each."""
    noise = random.Random(1).randbytes(int(size_bytes)).hex()
    return [Rollout(prompt="p", response=noise, group_id="g", base_score=1.0)]


TWO_THIRDS = rollouts_of_size(LIMIT_BYTES * 2 / 3)


def test_a_batch_over_the_limit_is_refused_until_others_end(
    manager: RewardManager, workers: Workers
) -> None:
    first = manager.submit(TWO_THIRDS)
    assert LIMIT_BYTES / 2 < workers.exchange.backlog_bytes() < LIMIT_BYTES
    keys = workers.keys()
    with pytest.raises(Overloaded, match=r"more than broker\.max_backlog_bytes = 1048576: wait"):
        manager.submit(TWO_THIRDS)
    assert workers.keys() == keys, "nothing is half-submitted"
    workers.exchange.discard(workers.exchange.manifest(first.batch_id))
    assert workers.exchange.backlog_bytes() == 0
    second = manager.submit(TWO_THIRDS)
    for future in (first, second):
        future.cancel()


def test_a_batch_larger_than_the_limit_is_always_refused(
    manager: RewardManager, workers: Workers
) -> None:
    with pytest.raises(Overloaded, match=r"more than broker\.max_backlog_bytes .* in parts"):
        manager.submit(rollouts_of_size(1.5 * LIMIT_BYTES))
    assert not workers.keys()


def test_concurrent_submitters_stay_within_the_limit(
    manager: RewardManager, workers: Workers
) -> None:
    small = rollouts_of_size(LIMIT_BYTES / 10)

    def submit(_: int) -> RewardFuture | None:
        try:
            return manager.submit(small)
        except Overloaded:
            return None

    with ThreadPoolExecutor(8) as pool:
        futures = [future for future in pool.map(submit, range(40)) if future is not None]
    assert 8 <= len(futures) <= 10
    assert workers.exchange.backlog_bytes() <= LIMIT_BYTES
    for future in futures:
        workers.succeed(future.batch_id, n=1)
        future.result(timeout_s=30)
        workers.exchange.discard(workers.exchange.manifest(future.batch_id))
    assert workers.exchange.backlog_bytes() == 0


def test_a_resubmitted_batch_counts_once_and_is_not_refused(
    manager: RewardManager, workers: Workers, redis_url: str
) -> None:
    source = backend(redis_url, manager.config.broker.result_expires_s)
    submission = prepare(TWO_THIRDS, manager.config, run="r", step=None)
    source.submit(submission, LIMIT_BYTES)
    held = workers.exchange.backlog_bytes()
    source.submit(submission.resubmission("failed"), LIMIT_BYTES)
    # The manifest grows with each submission.
    assert abs(workers.exchange.backlog_bytes() - held) < 1000
    workers.exchange.discard(submission.manifest)
    assert workers.exchange.backlog_bytes() == 0


def test_a_failed_batch_leaves_the_backlog_and_can_be_resumed_for_a_while(
    manager: RewardManager, workers: Workers
) -> None:
    future = manager.submit(TWO_THIRDS)
    workers.fail(future.batch_id, InvalidConfig("judges: no such thing"))
    with pytest.raises(BatchFailed, match="no such thing"):
        future.result(timeout_s=30)
    assert workers.exchange.backlog_bytes() == 0
    left_s = workers.redis.ttl(batch_key(future.batch_id, "chunk:0"))
    assert 0 < left_s <= ABANDONED_S


def test_a_batch_whose_payloads_expired_no_longer_counts(
    manager: RewardManager, workers: Workers
) -> None:
    gone, there = manager.submit(TWO_THIRDS), manager.submit(rollouts_of_size(1000))
    workers.redis.zadd(BACKLOG_ENDS_KEY, {gone.batch_id: 1})
    assert workers.exchange.backlog_bytes() < 10_000
    assert workers.redis.zrange(BACKLOG_ENDS_KEY, 0, -1) == [there.batch_id.encode()]
    for future in (gone, there):
        future.cancel()


def test_rollouts_of_open_groups_are_in_the_backlog(redis_url: str, workers: Workers) -> None:
    broker = {"url": redis_url, "max_backlog_bytes": LIMIT_BYTES}
    # Nothing is judged early, so that only the waiting rollouts are counted.
    manager = RewardManager(
        {"judges": [JUDGE], "broker": broker, "length": {"method": "median_band"}, "reuse": "off"}
    )
    large = replace(TWO_THIRDS[0], response_tokens=9)
    pending = manager.score(large, group_size=2)
    while not workers.exchange.backlog_bytes():
        assert not pending.done()
    assert workers.exchange.backlog_bytes() > LIMIT_BYTES / 2
    with pytest.raises(Overloaded, match="wait for earlier batches"):
        manager.submit([large])
    assert workers.exchange.under_way(10) == []
    other = replace(large, response="short")
    manager.score(other, group_size=2)
    workers.wait_for_sent(1)
    # Now the batch of the group is counted.
    (manifest,) = workers.exchange.under_way(10)
    workers.exchange.discard(manifest)
    assert workers.exchange.backlog_bytes() == 0


def test_the_cost_of_a_submission_does_not_grow_with_the_batches_under_way(
    workers: Workers,
) -> None:
    """Only single fields are read from Redis."""
    backlog = workers.exchange._backlog
    for i in range(300):
        backlog.enter(f"b{i}", 10, None)
    workers.redis.config_resetstat()
    backlog.enter("one more", 10, 10_000)
    calls = workers.redis.info("commandstats")
    assert {name for name in calls if "hgetall" in name} == set()
    assert sum(entry["calls"] for entry in calls.values()) < 20
    assert workers.exchange.backlog_bytes() == 3010
