"""The channel on a real Redis that temporarily refuses commands."""

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from oyer.protocol.redis_client import RedisRefuses
from oyer.tasks.app import make_app
from oyer.tasks.worker import broker_transport
from oyer.tasks.worker.message_lease import LeasedQoS


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def channel(redis_url: str) -> Iterator[Any]:
    """A worker's channel with one message on queue `judge`."""
    app = make_app(redis_url)
    with app.connection_for_read() as connection:
        channel = connection.channel()
        app.amqp.queues["judge"](channel).declare()
        connection.Producer(channel).publish({"n": 1}, routing_key="judge", exchange="judge")
        yield channel


@contextlib.contextmanager
def replica(client: redis.Redis) -> Iterator[None]:
    """Make the server a read-only replica, as in a failover, until the block ends."""
    client.execute_command("REPLICAOF", "127.0.0.1", "1")
    try:
        yield
    finally:
        client.execute_command("REPLICAOF", "NO", "ONE")


def fail_over_once_blocked(client: redis.Redis) -> None:
    while client.info("clients")["blocked_clients"] == 0:
        pass
    client.execute_command("REPLICAOF", "127.0.0.1", "1")


def test_a_worker_keeps_polling_while_redis_is_a_replica(
    channel: Any, client: redis.Redis, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    monkeypatch.setattr(broker_transport, "REFUSED_PAUSE_S", 0.0)
    connection = channel.connection.client
    got: list[Any] = []
    channel.basic_consume("judge", no_ack=False, callback=got.append, consumer_tag="c")
    with replica(client):
        for _ in range(2):
            connection.drain_events(timeout=5)
    assert got == []
    connection.drain_events(timeout=5)
    assert [message.decode() for message in got] == [{"n": 1}]
    assert caplog.text.count("no messages from Redis") == 1
    assert "READONLY" in caplog.text
    assert caplog.text.count("hands out messages again") == 1


def test_a_worker_survives_a_failover_during_a_blocking_read(
    channel: Any, client: redis.Redis, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    monkeypatch.setattr(broker_transport, "REFUSED_PAUSE_S", 0.0)
    monkeypatch.setattr(channel, "brpop_timeout", 30)
    channel.basic_get("judge")
    channel.basic_consume("judge", no_ack=False, callback=lambda _: None, consumer_tag="c")
    failover = threading.Thread(target=fail_over_once_blocked, args=(client,))
    failover.start()
    channel.connection.client.drain_events(timeout=20)
    failover.join()
    client.execute_command("REPLICAOF", "NO", "ONE")
    assert "UNBLOCKED" in caplog.text


def test_an_acknowledgement_that_is_refused_is_sent_later(
    channel: Any, client: redis.Redis
) -> None:
    assert isinstance(channel.qos, LeasedQoS)
    message = channel.basic_get("judge")
    with replica(client):
        message.ack()
        with pytest.raises(RedisRefuses):
            channel.qos.renew()
    assert client.hlen("unacked") == 1
    channel.qos.renew()
    assert client.hlen("unacked") == client.zcard("unacked_index") == 0


def test_a_message_taken_just_before_a_failover_is_processed(
    channel: Any, client: redis.Redis
) -> None:
    message = channel.basic_get("judge", no_ack=True)
    with replica(client):
        channel.qos.append(message, message.delivery_tag)
    assert message.delivery_tag in channel.qos._delivered
    assert client.hlen("unacked") == 0
