"""The channel on a real Redis that temporarily refuses commands."""

import contextlib
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from oyer.protocol.redis_client import RedisRefuses
from oyer.tasks.app import make_app
from oyer.tasks.coordination.admission import Admission
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
            connection.drain_events(timeout=30)
    assert got == []
    connection.drain_events(timeout=30)
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
    channel.connection.client.drain_events(timeout=60)
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


def message_of(flow: str, task_id: str, calls: int = 1) -> dict[str, Any]:
    return {"id": task_id, "oyer": {"flow": flow, "calls": calls}}


class JudgeWorker:
    """A judge worker's channel with an admission of its own."""

    def __init__(self, redis_url: str, slots: int, lookahead: int) -> None:
        self.connection = make_app(redis_url).connection_for_read()
        channel: Any = self.connection.channel()
        self.channel = channel
        self.channel.admission = Admission(slots, lambda _: lookahead)
        self.got: list[str] = []
        self._messages: dict[str, Any] = {}
        self.channel.basic_consume("judge", False, callback=self._take, consumer_tag="c")

    def _take(self, message: Any) -> None:
        self.got.append(message.headers["id"])
        self._messages[message.headers["id"]] = message

    def end(self, task_id: str) -> None:
        self._messages.pop(task_id).ack()

    def drain(self, *, looks: int = 1) -> list[str]:
        """Read until the queue and its lists were empty or full `looks` times; return the tasks taken."""
        self.got.clear()
        for _ in range(looks):
            with contextlib.suppress(TimeoutError):
                while True:
                    self.connection.drain_events(timeout=0.5)
        return list(self.got)


@pytest.fixture
def workers(redis_url: str) -> Iterator[Any]:
    """Start judge workers; the queue is declared."""
    started: list[JudgeWorker] = []

    def start(slots: int = 100, lookahead: int = 10) -> JudgeWorker:
        worker = JudgeWorker(redis_url, slots, lookahead)
        make_app(redis_url).amqp.queues["judge"](worker.channel).declare()
        started.append(worker)
        return worker

    yield start
    for worker in started:
        worker.connection.close()


@pytest.fixture
def publish(redis_url: str) -> Iterator[Any]:
    """Publish judge messages as a trainer does."""
    with make_app(redis_url).connection_for_write() as connection:
        producer = connection.Producer(connection.channel())

        def one(flow: str | None, task_id: str, calls: int = 1) -> None:
            headers = {"id": task_id} if flow is None else message_of(flow, task_id, calls)
            producer.publish({"n": 1}, routing_key="judge", exchange="judge", headers=headers)

        yield one


def lists_of(client: redis.Redis) -> set[str]:
    keys: Any = client.keys("oyer:judge:*")
    return {key.decode() for key in keys}


def test_a_flow_with_enough_calls_keeps_its_backlog_in_redis(
    workers: Any, publish: Any, client: redis.Redis
) -> None:
    worker = workers()
    for i in range(5):
        publish("a", f"a{i}", calls=6)
    publish("b", "b0", calls=6)
    assert set(worker.drain()) == {"a0", "a1", "b0"}
    assert client.llen("oyer:judge:flow:a") == 3
    worker.end("a0")
    # Two are taken at a time.
    assert worker.drain() == ["a2", "a3"]
    assert client.llen("oyer:judge:flow:a") == 1


def test_another_worker_takes_what_the_first_cannot(
    workers: Any, publish: Any, client: redis.Redis
) -> None:
    first = workers()
    for i in range(4):
        publish("a", f"a{i}", calls=6)
    assert first.drain() == ["a0", "a1"]
    assert workers().drain(looks=6) == ["a2", "a3"]
    assert lists_of(client) == set()


def test_a_taken_message_is_leased_and_deleted_once_acknowledged(
    workers: Any, publish: Any, client: redis.Redis
) -> None:
    worker = workers()
    publish("a", "a0")
    assert worker.drain() == ["a0"]
    assert client.hlen("unacked") == client.zcard("unacked_index") == 1
    worker.end("a0")
    assert client.hlen("unacked") == client.zcard("unacked_index") == 0
    assert worker.channel.admission.free == 100


def test_a_message_of_a_dead_worker_returns_first_in_its_flow(
    workers: Any, publish: Any, client: redis.Redis
) -> None:
    dead = workers()
    for i in range(3):
        publish("a", f"a{i}", calls=10)
    assert dead.drain() == ["a0", "a1"]
    # Its lease expires.
    tags: Any = client.zrange("unacked_index", 0, -1)
    for tag in tags:
        client.zadd("unacked_index", {tag: 0})
    dead.channel.qos._delivered.clear()
    other = workers()
    other.channel.qos.sweep()
    assert set(other.drain(looks=6)) == {"a0", "a1"}
    assert client.llen("oyer:judge:flow:a") == 1


def test_messages_of_the_last_release_share_one_flow(workers: Any, publish: Any) -> None:
    worker = workers()
    for i in range(3):
        publish(None, f"old{i}")
    assert worker.drain() == ["old0", "old1", "old2"]


def test_an_unreadable_message_among_others_is_dropped(
    workers: Any, publish: Any, client: redis.Redis, caplog: Any
) -> None:
    worker = workers()
    publish("a", "a0")
    for raw in ("no JSON", '{"properties": 1}', "[]", '{"properties": {"delivery_info": {}}}'):
        client.lpush("judge", raw)
    publish("a", "a1")
    assert worker.drain() == ["a0", "a1"]
    assert caplog.text.count("thrown away") == 4
    assert lists_of(client) == set()
    assert client.hlen("unacked") == 2


def test_a_compressed_message_leaves_no_lease(
    workers: Any, publish: Any, client: redis.Redis, caplog: Any
) -> None:
    worker = workers()
    publish("a", "a0")
    raw = client.rpop("judge")
    assert isinstance(raw, bytes)
    packed = json.loads(raw)
    packed["headers"]["compression"] = "gzip"
    publish("a", "a1")
    client.lpush("judge", json.dumps(packed))
    assert worker.drain() == ["a1"]
    assert "thrown away" in caplog.text
    assert client.hlen("unacked") == client.zcard("unacked_index") == 1


def test_slots_that_are_short_serve_every_flow(workers: Any, publish: Any) -> None:
    worker = workers(slots=6, lookahead=1000)
    for i in range(20):
        publish("a", f"a{i}")
    assert len(worker.drain()) == 4
    publish("b", "b0")
    assert worker.drain() == ["b0"]
