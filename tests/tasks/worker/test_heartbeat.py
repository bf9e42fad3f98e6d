"""Workers announce themselves in a real Redis, and are gone when they stop."""

import os
import threading
from collections.abc import Iterator
from importlib.metadata import version

import pytest
import redis

from oyer.protocol import names
from oyer.protocol.errors import InvalidConfig
from oyer.tasks.worker import context, heartbeat


@pytest.fixture
def client(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[redis.Redis]:
    """The broker of this process as a worker that has just started."""
    cached = (context.config, context.redis_client, context.exchange, context.worker_name)
    monkeypatch.delenv("OYER_CONFIG", raising=False)
    monkeypatch.setenv("OYER_BROKER__URL", redis_url)
    monkeypatch.setattr(heartbeat, "_stopped", threading.Event())
    monkeypatch.setattr(heartbeat, "_announced", [])
    for function in cached:
        function.cache_clear()
    with redis.Redis.from_url(redis_url) as client:
        yield client
    heartbeat._stopped.set()
    context.redis_client().close()
    for function in cached:
        function.cache_clear()


def test_a_worker_is_there_on_its_queues_until_it_stops(client: redis.Redis) -> None:
    heartbeat.announce(["judge", "combine"])
    found = heartbeat.workers(client)
    assert set(found) == set(names.QUEUES)
    assert found["length"] == []
    [entry] = found["judge"]
    assert found["combine"] == [entry]
    assert entry["pid"] == os.getpid()
    assert entry["version"] == version("oyer")
    assert entry["device"] is None
    heartbeat.withdraw()
    assert heartbeat.workers(client) == {"judge": [], "length": [], "combine": []}


def test_a_length_worker_says_which_device_it_computes_on(client: redis.Redis) -> None:
    heartbeat.announce(["length"])
    [entry] = heartbeat.workers(client)["length"]
    assert entry["device"]


def test_a_worker_that_was_killed_is_forgotten_soon(client: redis.Redis) -> None:
    heartbeat.announce(["judge"])
    [key] = client.scan_iter(match="oyer:worker:*")
    left_s = client.ttl(key)
    assert isinstance(left_s, int)
    assert 0 < left_s <= 15


def test_withdrawing_what_was_never_announced_is_no_error(client: redis.Redis) -> None:
    heartbeat.withdraw()
    assert client.dbsize() == 0


def test_a_worker_with_another_lease_than_the_others_refuses_to_work(client: redis.Redis) -> None:
    client.set(names.LEASE_KEY, 99)
    with pytest.raises(InvalidConfig, match=r"lease messages for 99 s, this one for 10 s; run the"):
        heartbeat.announce(["judge"])
    assert heartbeat.workers(client)["judge"] == []


def test_without_workers_every_queue_is_empty(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        assert heartbeat.workers(client) == {"judge": [], "length": [], "combine": []}
