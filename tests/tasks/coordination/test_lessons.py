"""Lessons about an endpoint, in one process and shared by several."""

import contextlib
import logging
import socket
from collections.abc import Iterator

import pytest
from redis import Redis

from oyer.config.reward import EndpointConfig
from oyer.protocol.redis_client import connect
from oyer.tasks.coordination import lessons
from oyer.tasks.coordination.lessons import KEEP_S, Lessons, server_identity
from tests.support import services

A = EndpointConfig(base_url="http://a:8000/v1")
RENAMED = {"max_tokens": "max_completion_tokens"}


@pytest.fixture
def client(redis_url: str) -> Iterator[Redis]:
    with connect(redis_url) as client:
        yield client


@pytest.fixture(autouse=True)
def _read_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lessons, "READ_PAUSE_S", 0.0)


def test_a_lesson_of_one_worker_reaches_the_others(client: Redis) -> None:
    one, other = Lessons("e", A, client), Lessons("e", A, client)
    assert one.refused("m") == other.refused("m") == {}
    assert one.learn("m", RENAMED) == RENAMED
    assert other.refused("m") == RENAMED
    other.learn("m", {"temperature": None})
    assert (
        one.refused("m") == Lessons("e", A, client).refused("m") == {**RENAMED, "temperature": None}
    )
    [key] = client.keys("oyer:lessons:*")
    assert 0 < client.ttl(key) <= KEEP_S


def test_a_lesson_applies_to_one_endpoint_with_its_servers_and_one_model(client: Redis) -> None:
    Lessons("e", A, client).learn("m", RENAMED)
    moved = EndpointConfig(base_url="http://b:8000/v1")
    assert Lessons("e", A, client).refused("m2") == {}
    assert Lessons("e2", A, client).refused("m") == {}
    assert Lessons("e", moved, client).refused("m") == {}


def test_a_field_refused_under_its_new_name_too_is_omitted(client: Redis) -> None:
    one = Lessons("e", A, client)
    one.learn("m", RENAMED)
    # A call that was under way is refused for the old name: nothing new.
    assert one.learn("m", RENAMED) == RENAMED
    assert one.learn("m", {"max_completion_tokens": "max_tokens"}) == {"max_tokens": None}
    assert Lessons("e", A, client).refused("m") == {"max_tokens": None}
    late = Lessons("e", A, client)
    late.learn("m", RENAMED)
    assert one.refused("m") == {"max_tokens": None}


def test_a_lesson_is_logged_once(client: Redis, caplog: pytest.LogCaptureFixture) -> None:
    one = Lessons("e", A, client)
    with caplog.at_level(logging.WARNING):
        one.learn("m", {**RENAMED, "temperature": None})
        one.learn("m", {**RENAMED, "temperature": None})
    [line] = [one.getMessage() for one in caplog.records if one.name == lessons.__name__]
    assert "'e'" in line
    assert "without temperature, max_tokens as max_completion_tokens" in line


def test_without_redis_a_process_uses_its_own_lessons() -> None:
    with connect(f"redis://127.0.0.1:{services.free_port()}/0") as nowhere:
        for redis in (None, nowhere):
            one = Lessons("e", A, redis)
            one.learn("m", RENAMED)
            one.report("m", "m-1")
            assert one.refused("m") == RENAMED
            assert one.reported("m") == "m-1"


def test_calls_wait_only_once_for_a_redis_that_does_not_answer() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        connect(f"redis://127.0.0.1:{silent.getsockname()[1]}/0") as stuck,
    ):
        one = Lessons("e", A, stuck)
        assert one.refused("m") == {}
        silent.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                silent.accept()[0].close()
        for _ in range(100):
            assert one.refused("m") == {}
        with pytest.raises(BlockingIOError):
            silent.accept()


def test_the_last_reported_name_reaches_all_workers(client: Redis) -> None:
    one, other = Lessons("e", A, client), Lessons("e", A, client)
    assert one.reported("m") is None
    one.report("m", "m-1")
    assert other.reported("m") == "m-1"
    other.report("m", "m-2")
    other.report("m", "")
    assert one.reported("m") == "m-2"
    assert one.reported("m2") is None


def test_servers_are_distinguished_by_their_addresses() -> None:
    def identity(*urls: str) -> str:
        return server_identity(
            EndpointConfig.model_validate({"base_urls": [{"url": u} for u in urls]})
        )

    assert identity("http://a:1/v1", "http://b:1/v1") == identity("http://b:1/v1/", "http://A:1/v1")
    assert (
        identity("http://u:secret@a:1/v1?sig=1")
        == identity("http://a:1/v1")
        == server_identity(EndpointConfig(base_url="http://a:1/v1"))
    )
    different = [
        "http://a:1/v1",
        "http://a:2/v1",
        "http://b:1/v1",
        "https://a:1/v1",
        "http://a:1/v2",
    ]
    assert len({identity(url) for url in different}) == len(different)
