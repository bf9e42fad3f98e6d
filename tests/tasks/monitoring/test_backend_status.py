"""The status of a backend, read from the state that real limiters and budgets write to Redis."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import redis

from oyer.config.reward import Budget
from oyer.manager import RewardManager, Rollout
from oyer.protocol.batch_store import BatchStore
from oyer.protocol.errors import MessageRefused
from oyer.protocol.names import FLOWS_KEY, batch_key, flow_key
from oyer.protocol.redis_client import connect
from oyer.tasks.coordination.adaptive import Evidence
from oyer.tasks.coordination.budget import RunBudget, budget_key
from oyer.tasks.coordination.limiter import Limiter, limits_key
from oyer.tasks.monitoring.backend_status import EndpointStatus, endpoint_status, run_status
from oyer.tasks.monitoring.status_reader import read_status
from tests.manager.conftest import JUDGE

FAR_S = 3600.0


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


def state_of(client: redis.Redis, key: str) -> dict[bytes, bytes]:
    """Read a hash as the limiter and the budget write it."""
    return {bytes(name): bytes(value) for name, value in client.hgetall(key).items()}  # type: ignore[arg-type]  # the client decodes nothing


@pytest.fixture
def limiter(redis_url: str) -> Iterator[Callable[..., Limiter]]:
    """Make limiters, which end with the test: a report would change what later ones read."""
    started: list[Limiter] = []

    def make(**changes: object) -> Limiter:
        options: dict[str, object] = {
            "max_in_flight": 8,
            "requests_per_minute": 100,
            "tokens_per_minute": 5000,
            "adaptive": True,
            "worker_id": "host:1",
        }
        started.append(Limiter(connect(redis_url), "e", **{**options, **changes}))  # type: ignore[arg-type]  # varied on purpose
        return started[-1]

    yield make
    for one in started:
        one.close()


def endpoint(client: redis.Redis) -> EndpointStatus:
    """Read the status of the test's endpoint."""
    [found] = read_status(client, ["e"]).endpoints
    return found


def until(client: redis.Redis, met: Callable[[EndpointStatus], bool]) -> EndpointStatus:
    """Wait until a limiter's thread has reported a status."""
    end_s = time.monotonic() + 20
    while not met(found := endpoint(client)):
        assert time.monotonic() < end_s, found
        time.sleep(0.02)
    return found


def test_messages_sorted_by_flow_count_as_waiting(client: redis.Redis) -> None:
    client.sadd(FLOWS_KEY, "a", "b")
    client.rpush(flow_key("a"), "1", "2")
    client.rpush(flow_key("b"), "3")
    client.rpush("judge", "4")
    waiting = {queue.name: queue.waiting for queue in read_status(client).queues}
    assert waiting == {"judge": 4, "length": 0, "combine": 0}


def test_a_call_counts_against_each_limit_until_its_worker_closes(
    limiter: Callable[..., Limiter], client: redis.Redis
) -> None:
    opened = limiter()
    permit = opened.acquire(70, time.time() + 60)
    assert permit is not None
    # Wait for the next report: the one that granted the slot preceded the call.
    found = until(client, lambda found: found.in_flight > 0)
    assert found.max_in_flight == 8
    assert found.adaptive_limit is not None
    assert found.adaptive_limit <= 8
    assert [(one.worker, one.in_flight, one.waiting) for one in found.callers] == [("host:1", 1, 0)]
    assert (found.requests_per_minute, found.tokens_per_minute) == (100, 5000)
    opened.release(permit, used_tokens=50, evidence=Evidence(rate_limited=True), retry_after_s=60.0)
    assert 50 < until(client, lambda found: found.cool_s > 0).cool_s < 61
    opened.close()
    left = endpoint(client)
    assert (left.in_flight, left.waiting, left.callers) == (0, 0, ())
    # Unused grants are returned; the call and its usage remain.
    assert (left.requests, left.tokens) == (1, 50)


def test_expired_calls_and_workers_are_not_counted(
    limiter: Callable[..., Limiter], client: redis.Redis
) -> None:
    opened = limiter()
    assert opened.acquire(70, time.time() + 60) is not None
    state = state_of(client, limits_key("e"))
    now = endpoint_status("e", state, time.time())
    assert now.requests
    assert len(now.callers) == 1
    later = endpoint_status("e", state, time.time() + 61)
    assert (later.requests, later.tokens, later.callers) == (0, 0, ())


def test_without_limits_nothing_is_counted(
    limiter: Callable[..., Limiter], client: redis.Redis
) -> None:
    opened = limiter(requests_per_minute=None, tokens_per_minute=None, adaptive=False)
    assert opened.acquire(70, time.time() + 60) is not None
    found = endpoint(client)
    assert (found.requests, found.requests_per_minute) == (None, None)
    assert (found.tokens, found.tokens_per_minute, found.adaptive_limit) == (None, None, None)
    assert found.max_in_flight == 8


def test_the_limits_of_an_endpoint_without_calls_are_unknown(client: redis.Redis) -> None:
    found = endpoint(client)
    assert (found.in_flight, found.waiting, found.max_in_flight) == (0, 0, None)


def test_a_reservation_ends_with_its_lifetime_and_spending_stays(
    redis_url: str, client: redis.Redis
) -> None:
    purse = RunBudget(
        connect(redis_url),
        "r",
        # The soft mark equals the call's reservation, so nothing is reserved ahead.
        Budget(usd=2.0, soft_fraction=0.75),
        holder="host:1",
        recorded_usd=lambda: 0.5,
        call_s=5,
        keep_s=60,
    )
    assert purse.reserve(1.0, first_sample=True, deadline=time.time() + FAR_S) is None
    state = state_of(client, budget_key("r"))
    held = run_status("r", 2.0, state, time.time())
    assert (held.spent_usd, held.reserved_usd, held.budget_usd) == (0.5, 1.0, 2.0)
    assert run_status("r", 2.0, state, time.time() + FAR_S).reserved_usd == 0
    purse.settle(1.0, 0.25)
    purse.report()
    spent = run_status("r", 2.0, state_of(client, budget_key("r")), time.time())
    assert (spent.spent_usd, spent.reserved_usd) == (0.75, 0)
    assert run_status("r", None, {}, time.time()).spent_usd is None


def test_batches_in_each_state(redis_url: str, client: redis.Redis) -> None:
    manager = RewardManager({"judges": [JUDGE], "length": [], "broker": {"url": redis_url}})
    exchange = BatchStore(client, expires_s=60)
    rollouts = [
        Rollout(prompt="p", response=f"r{i}", group_id="g", base_score=1.0) for i in range(2)
    ]
    futures = [manager.submit(rollouts, run="r", step=step) for step in range(4)]
    ids = [future.batch_id for future in futures]
    exchange.report(ids[1], 0, 1)
    exchange.report(ids[2], 0, 2)
    exchange.end(ids[3], "cancelled", "for a test")
    status = read_status(client)
    assert [batch.id for batch in status.batches] == ids
    assert [batch.state for batch in status.batches] == [
        "no verdict yet",
        "judging",
        "judged",
        "cancelled",
    ]
    assert [batch.judged for batch in status.batches] == [0, 1, 2, 0]
    assert {batch.verdicts for batch in status.batches} == {2}
    assert status.backlog_bytes == exchange.backlog_bytes() > 0
    queues = {queue.name: queue for queue in status.queues}
    assert queues["judge"].waiting == 4
    assert [one.name for one in status.endpoints] == [JUDGE["endpoint"]]
    [run] = status.runs
    assert (run.run, run.spent_usd, run.budget_usd) == ("r", None, None)
    exchange.discard(exchange.manifest(ids[0]))
    assert [batch.id for batch in read_status(client).batches] == ids[1:]
    client.set(batch_key(ids[1], "ended"), '["eaten", ""]')
    with pytest.raises(MessageRefused, match="cannot have ended as 'eaten'"):
        read_status(client)


def test_a_later_submission_is_counted(redis_url: str, client: redis.Redis) -> None:
    manager = RewardManager({"judges": [JUDGE], "length": [], "broker": {"url": redis_url}})
    exchange = BatchStore(client, expires_s=60)
    future = manager.submit([Rollout(prompt="p", response="r", group_id="g", base_score=1.0)])
    manifest = exchange.manifest(future.batch_id).again("for a test")
    exchange.replace_manifest(replace(manifest, deadline=time.time() - 10))
    [batch] = read_status(client).batches
    assert batch.submissions == 2
    assert batch.left_s < 0


def test_reading_the_status_writes_nothing(redis_url: str, client: redis.Redis) -> None:
    manager = RewardManager({"judges": [JUDGE], "length": [], "broker": {"url": redis_url}})
    manager.submit([Rollout(prompt="p", response="r", group_id="g", base_score=1.0)])
    written = client.info("persistence")["rdb_changes_since_last_save"]
    read_status(client, ["e"])
    assert client.info("persistence")["rdb_changes_since_last_save"] == written
