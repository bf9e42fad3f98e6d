"""The result backend subscribes to nothing and still counts chords."""

from typing import Any

import pytest
import redis
from celery import chord, group
from celery.app.task import Context
from celery.backends.redis import RedisBackend

from oyer.protocol import names
from oyer.tasks.app import make_app
from oyer.tasks.worker.result_backend import PollRedis

pytestmark = pytest.mark.filterwarnings(
    "ignore:Call to deprecated setex:DeprecationWarning"  # Celery 5.7 on redis-py 8
)


def test_celery_loads_the_backend_from_its_url(redis_url: str) -> None:
    backend: Any = make_app(redis_url).backend
    assert type(backend) is PollRedis
    assert isinstance(backend, RedisBackend)


def test_sending_a_chord_subscribes_to_nothing(redis_url: str) -> None:
    app = make_app(redis_url)
    header = [
        app.signature(names.JUDGE_TASK, kwargs={"k": k}, immutable=True, options={"queue": "judge"})
        for k in range(20)
    ]
    body = app.signature(names.COMBINE_TASK, options={"queue": "combine"})
    result = chord(group(header, app=app), app=app)(body, task_id="the-batch")
    assert result.id == "the-batch"
    with redis.Redis.from_url(redis_url) as client:
        assert client.pubsub_channels() == []
        clients = client.client_list()
        assert isinstance(clients, list)
        assert sum(int(one["sub"]) for one in clients) == 0
        assert client.llen("judge") == 20


def test_a_result_is_stored_and_read_by_polling(redis_url: str) -> None:
    app = make_app(redis_url)
    app.backend.store_result("b", {"rewards": [1.0]}, "SUCCESS")
    assert app.AsyncResult("b").result == {"rewards": [1.0]}
    with redis.Redis.from_url(redis_url) as client:
        assert client.pubsub_channels() == []


def test_a_success_is_not_replaced_by_a_failure(redis_url: str) -> None:
    """A redelivered task may fail because its payloads are gone."""
    app = make_app(redis_url)
    app.backend.store_result("b", 1, "SUCCESS")
    app.backend.store_result("b", OSError("gone"), "FAILURE")
    assert app.AsyncResult("b").status == "SUCCESS"


@pytest.mark.parametrize("stored", [b"\xff not JSON", b"[]", b'"text"', b"{}", None], ids=repr)
def test_a_stored_result_that_cannot_be_read_is_replaced(
    redis_url: str, stored: bytes | None
) -> None:
    app = make_app(redis_url)
    key = app.backend.get_key_for_task("b")  # type: ignore[attr-defined]  # not in the stubs
    with redis.Redis.from_url(redis_url) as client:
        if stored is None:
            client.rpush(key, "a list")
        else:
            client.set(key, stored)
    app.backend.store_result("b", {"rewards": [1.0]}, "SUCCESS")
    assert app.AsyncResult("b").result == {"rewards": [1.0]}


@pytest.mark.parametrize("suffix", [".j", ".t", ".s", ".d", ".c"])
def test_a_task_of_a_chord_whose_keys_are_foreign_ends_uncounted(
    redis_url: str, suffix: str, caplog: pytest.LogCaptureFixture
) -> None:
    app = make_app(redis_url)
    backend: Any = app.backend
    request = Context(id="t", group="g", group_index=0, chord=app.signature(names.COMBINE_TASK))
    with redis.Redis.from_url(redis_url) as client:
        client.rpush(backend.get_key_for_group("g", suffix), "a list")
    backend.on_chord_part_return(request, "SUCCESS", 1)
    assert "cannot be counted" in caplog.text


@pytest.mark.parametrize("method", ["start", "consume_from", "cancel_for"])
def test_the_overridden_methods_exist_in_celery(method: str) -> None:
    """If Celery renamed a method, the override would have no effect."""
    assert callable(getattr(RedisBackend.ResultConsumer, method))
    assert callable(RedisBackend.on_task_call)
