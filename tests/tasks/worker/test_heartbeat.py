"""Heartbeats of workers in a real Redis."""

import os
from collections.abc import Callable, Iterator
from importlib.metadata import version

import pytest
import redis

from oyer.config.reward import RewardConfig
from oyer.protocol import names
from oyer.protocol.errors import InvalidConfig
from oyer.protocol.measuring.live_workers import workers
from oyer.tasks.app import VISIBILITY_TIMEOUT_S
from oyer.tasks.worker.context import WorkerContext
from oyer.tasks.worker.heartbeat import Heartbeat

Start = Callable[..., Heartbeat]


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def start(redis_url: str) -> Iterator[Start]:
    """Starts the heartbeat of a worker on the given queues."""
    context = WorkerContext(RewardConfig.model_validate({"broker": {"url": redis_url}}))
    started: list[Heartbeat] = []

    def start(*queues: str) -> Heartbeat:
        started.append(Heartbeat(context, queues, VISIBILITY_TIMEOUT_S))
        started[-1].start()
        return started[-1]

    yield start
    for heartbeat in started:
        heartbeat.stop()
    context.redis.close()


def test_a_worker_is_listed_on_its_queues_until_it_stops(start: Start, client: redis.Redis) -> None:
    heartbeat = start("judge", "combine")
    found = workers(client)
    assert set(found) == set(names.QUEUES)
    assert found["length"] == []
    [entry] = found["judge"]
    assert found["combine"] == [entry]
    assert entry["pid"] == os.getpid()
    assert entry["version"] == version("oyer")
    assert entry["device"] is None
    heartbeat.stop()
    assert workers(client) == {"judge": [], "length": [], "combine": []}


def test_a_length_worker_names_its_device(start: Start, client: redis.Redis) -> None:
    start("length")
    [entry] = workers(client)["length"]
    assert entry["device"]


def test_a_killed_workers_heartbeat_expires(start: Start, client: redis.Redis) -> None:
    start("judge")
    [key] = client.scan_iter(match="oyer:worker:*")
    left_s = client.ttl(key)
    assert isinstance(left_s, int)
    assert 0 < left_s <= 15


def test_a_worker_with_another_lease_time_refuses_to_start(
    start: Start, client: redis.Redis
) -> None:
    client.set(names.LEASE_KEY, 99)
    with pytest.raises(InvalidConfig, match=r"lease messages for 99 s, this one for 10 s; run the"):
        start("judge")
    assert workers(client)["judge"] == []


def test_without_workers_every_queue_is_empty(client: redis.Redis) -> None:
    assert workers(client) == {"judge": [], "length": [], "combine": []}
