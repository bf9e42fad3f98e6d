"""Temporary error replies of a real Redis are raised as connection errors, others unchanged."""

import contextlib
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import redis
from redis.exceptions import NoScriptError

from oyer.protocol import redis_client
from oyer.protocol.redis_client import (
    Client,
    RedisClock,
    RedisRefuses,
    passing_code,
    while_refused,
)
from tests.support.services import redis_server


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with Client.from_url(redis_url) as client:
        yield client


@contextlib.contextmanager
def _replica(client: redis.Redis) -> Iterator[None]:
    client.execute_command("REPLICAOF", "127.0.0.1", "1")
    try:
        yield
    finally:
        client.execute_command("REPLICAOF", "NO", "ONE")


@contextlib.contextmanager
def _set(client: redis.Redis, key: str, value: int, before: int) -> Iterator[None]:
    client.config_set(key, value)
    try:
        yield
    finally:
        client.config_set(key, before)


REFUSALS: dict[str, Callable[[redis.Redis], contextlib.AbstractContextManager[None]]] = {
    "READONLY": _replica,
    "NOREPLICAS": lambda client: _set(client, "min-replicas-to-write", 1, 0),
    "OOM": lambda client: _set(client, "maxmemory", 1, 0),
}


@pytest.mark.parametrize("code", REFUSALS)
def test_a_refused_write_raises_a_connection_error(client: redis.Redis, code: str) -> None:
    script = client.register_script("return redis.call('SET', KEYS[1], 'by script')")
    client.ping()
    with REFUSALS[code](client):
        with pytest.raises(redis.ConnectionError, match=code):
            client.set("k", "v")
        with pytest.raises(RedisRefuses, match=code):
            script(keys=["k"])
        for transaction in (True, False):
            pipe: Any = client.pipeline(transaction=transaction)
            pipe.get("k")
            pipe.set("k", "v")
            with pytest.raises(RedisRefuses, match=code):
                pipe.execute()
            with pytest.raises(RedisRefuses, match=code):
                pipe.get("k").set("k", "v").execute(raise_on_error=False)
    assert client.get("k") is None
    pipe = client.pipeline()
    pipe.set("k", "v")
    assert pipe.execute() == [True]


def _write(client: redis.Redis) -> None:
    client.set("k", "v")


def test_a_long_script_raises_a_refusal() -> None:
    with (
        redis_server("--lua-time-limit", "1") as url,
        Client.from_url(url) as client,
        redis.Redis.from_url(url, socket_timeout=1.0) as other,
    ):
        other.ping()  # only the script, not the connection, takes longer than the timeout
        with pytest.raises(redis.TimeoutError):
            other.eval("while true do end", 0)
        with pytest.raises(RedisRefuses, match="BUSY"):
            client.set("k", "v")
        client.script_kill()
        # The script ends only after the reply to SCRIPT KILL.
        while_refused(partial(_write, client))
        assert client.get("k") == b"v"


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        (redis.ResponseError("UNBLOCKED force unblock from blocking operation"), "UNBLOCKED"),
        (redis.ResponseError("MISCONF Redis is configured to save RDB snapshots"), "MISCONF"),
        (
            redis.ResponseError(
                "Command # 1 (ZADD unacked_index) of pipeline caused error: NOREPLICAS Not enough"
            ),
            "NOREPLICAS",
        ),
        (
            redis.ResponseError(
                "Error running script (call to f_1): @user_script:1: @user_script: 1: -READONLY You"
            ),
            "READONLY",
        ),
        (redis.ResponseError("ERR unknown command 'OOM'"), None),
        (redis.ResponseError("WRONGTYPE Operation against a key"), None),
        (redis.ResponseError("BUSYGROUP Consumer Group name already exists"), None),
        (redis.TimeoutError("READONLY"), None),
    ],
)
def test_temporary_replies_are_recognized_by_code(reply: Exception, code: str | None) -> None:
    assert passing_code(reply) == code


@pytest.mark.parametrize(
    "reply",
    [
        "LOADING Redis is loading the dataset in memory",
        "MASTERDOWN Link with MASTER is down",
        "CLUSTERDOWN The cluster is down",
        "MOVED 3999 127.0.0.1:6381",
        "ASK 3999 127.0.0.1:6381",
        "TRYAGAIN Multiple keys request during rehashing of slot",
    ],
)
def test_replies_with_a_redis_py_class_are_temporary(reply: str) -> None:
    from redis._parsers.base import BaseParser

    error = BaseParser.parse_error(reply)
    assert isinstance(error, redis.ConnectionError) or passing_code(error) == reply.split()[0]


def test_other_errors_are_raised_unchanged(client: redis.Redis) -> None:
    client.set("k", "v")
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        client.lpush("k", "v")
    pipe: Any = client.pipeline()
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        pipe.lpush("k", "v").execute()


def test_a_lost_script_is_loaded_again_but_refused_in_a_pipeline(client: redis.Redis) -> None:
    script = client.register_script("return 1")
    assert script() == 1
    client.script_flush()
    assert script() == 1
    with pytest.raises(NoScriptError):
        client.evalsha("0" * 40, 0)
    with pytest.raises(RedisRefuses, match="NOSCRIPT"):
        client.pipeline().evalsha("0" * 40, 0).execute()
    replies = client.pipeline().evalsha("0" * 40, 0).execute(raise_on_error=False)
    assert isinstance(replies[0], NoScriptError)


def test_while_refused_retries_until_its_time_limit(
    client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_client, "_PAUSE_S", 0.0)
    tries = []

    def write() -> None:
        tries.append(1)
        if len(tries) == 3:
            client.execute_command("REPLICAOF", "NO", "ONE")
        client.set("k", "v")

    client.execute_command("REPLICAOF", "127.0.0.1", "1")
    while_refused(write)
    assert client.get("k") == b"v"
    assert len(tries) == 3
    monkeypatch.setattr(redis_client, "REFUSED_S", 0.0)
    with _replica(client), pytest.raises(RedisRefuses):
        while_refused(write)


def _epoch_s(client: redis.Redis) -> float:
    seconds, microseconds = client.time()
    return float(seconds) + microseconds / 1e6


def test_a_host_with_a_wrong_clock_has_the_time_of_redis(
    client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = time.time
    clock = RedisClock(client)
    for wrong_s in (7200.0, -7200.0):
        monkeypatch.setattr(time, "time", lambda wrong_s=wrong_s: right() + wrong_s)
        before_s = _epoch_s(client)
        now_s = clock.now_s()
        assert before_s - 0.1 <= now_s <= _epoch_s(client) + 0.1
        assert round(clock.ahead_s() / wrong_s, 2) == 1.0
