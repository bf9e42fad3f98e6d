"""Leases of unacknowledged messages, on kombu's channels and a real Redis.

The tests fail if kombu changes an internal that `oyer.tasks.worker.message_lease` uses.
"""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from celery import Celery

from oyer.tasks.app import VISIBILITY_TIMEOUT_S, make_app
from oyer.tasks.worker import message_lease
from oyer.tasks.worker.message_lease import MessageLease

UNACKED, INDEX = "unacked", "unacked_index"


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        yield client


@pytest.fixture
def app(redis_url: str) -> Celery:
    return make_app(redis_url)


@pytest.fixture
def channel(app: Celery) -> Iterator[Any]:
    """A worker's channel with one message on queue `judge`."""
    with app.connection() as connection:
        channel = connection.channel()
        app.amqp.queues["judge"](channel).declare()
        connection.Producer(channel).publish({"n": 1}, routing_key="judge", exchange="judge")
        yield channel


def lease_of(client: redis.Redis, tag: str) -> float:
    score = client.zscore(INDEX, tag)
    assert isinstance(score, float)
    return score


def now_s(client: redis.Redis) -> float:
    seconds, microseconds = client.time()
    return float(seconds) + microseconds / 1e6


def test_a_taken_message_is_leased_by_the_clock_of_redis(channel: Any, client: redis.Redis) -> None:
    before_s = now_s(client)
    message = channel.basic_get("judge")
    assert before_s - 0.1 <= lease_of(client, message.delivery_tag) <= now_s(client) + 0.1
    assert client.hexists(UNACKED, message.delivery_tag)
    assert message.decode() == {"n": 1}


def test_renewal_restarts_a_lease(channel: Any, client: redis.Redis) -> None:
    tag = channel.basic_get("judge").delivery_tag
    client.zadd(INDEX, {tag: 1.0})
    before_s = now_s(client)
    channel.qos.renew()
    assert lease_of(client, tag) >= before_s - 0.1


def test_an_acknowledged_message_is_not_leased_again(channel: Any, client: redis.Redis) -> None:
    message = channel.basic_get("judge")
    message.ack()
    channel.qos.renew()
    assert client.zcard(INDEX) == client.hlen(UNACKED) == 0


def test_a_message_is_acknowledged_while_redis_is_full(channel: Any, client: redis.Redis) -> None:
    message = channel.basic_get("judge")
    client.config_set("maxmemory", 1)
    try:
        message.ack()
    finally:
        client.config_set("maxmemory", 0)
    assert client.zcard(INDEX) == client.hlen(UNACKED) == 0
    channel.qos.renew()
    assert client.zcard(INDEX) == 0


def test_a_sweep_removes_a_lease_without_a_message(channel: Any, client: redis.Redis) -> None:
    client.zadd(INDEX, {"no such message": 1.0})
    channel.qos.sweep()
    assert client.zcard(INDEX) == 0
    assert client.llen("judge") == 1


def test_a_sweep_returns_an_expired_message_to_its_queue(
    app: Celery, channel: Any, client: redis.Redis
) -> None:
    tag = channel.basic_get("judge").delivery_tag
    assert client.llen("judge") == 0
    client.zadd(INDEX, {tag: now_s(client) - VISIBILITY_TIMEOUT_S - 1})
    with app.connection() as survivor:
        other: Any = survivor.channel()
        other.qos.sweep()
        assert client.llen("judge") == 1
        again = other.basic_get("judge")
        assert again.decode() == {"n": 1}
        assert again.headers is not None


def test_an_expired_message_is_returned_once(
    app: Celery, channel: Any, client: redis.Redis
) -> None:
    tag = channel.basic_get("judge").delivery_tag
    client.zadd(INDEX, {tag: 1.0})
    with app.connection() as survivor:
        other: Any = survivor.channel()
        other.qos.sweep()
        other.qos.sweep()
    channel.qos.sweep()
    assert client.llen("judge") == 1
    assert client.zcard(INDEX) == 0


def test_a_sweep_leaves_valid_leases_alone(app: Celery, channel: Any, client: redis.Redis) -> None:
    channel.basic_get("judge")
    with app.connection() as neighbour:
        other: Any = neighbour.channel()
        other.qos.sweep()
    assert client.llen("judge") == 0


def test_kombus_sweep_by_the_hosts_clock_is_off(channel: Any, client: redis.Redis) -> None:
    tag = channel.basic_get("judge").delivery_tag
    client.zadd(INDEX, {tag: 1.0})
    channel.qos.restore_visible(num=1000, interval=1)
    assert client.llen("judge") == 0


def test_a_channel_has_the_visibility_timeout_of_the_app(channel: Any) -> None:
    assert channel.visibility_timeout == VISIBILITY_TIMEOUT_S
    assert (channel.unacked_key, channel.unacked_index_key) == (UNACKED, INDEX)


def test_the_step_restores_the_connection_timeout_and_starts_after_the_tasks() -> None:
    app = Celery()
    app.conf.broker_connection_timeout = None
    MessageLease(SimpleNamespace(app=app))
    assert app.conf.broker_connection_timeout == message_lease.CONNECTION_TIMEOUT_S
    assert MessageLease.requires == ("celery.worker.consumer.tasks:Tasks",)


def test_on_another_broker_the_step_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Any] = []
    monkeypatch.setattr(message_lease, "_keep", lambda *args: started.append(args))
    with Celery(broker="memory://").connection() as connection:
        MessageLease(SimpleNamespace(app=Celery())).start(SimpleNamespace(connection=connection))
    assert started == []
