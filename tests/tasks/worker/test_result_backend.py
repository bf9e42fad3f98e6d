"""Results without subscriptions: a chord of any size subscribes to nothing and still counts."""

from typing import Any

import pytest
import redis
from celery import chord, group
from celery.backends.redis import RedisBackend

from oyer.protocol import names
from oyer.tasks.app import make_app
from oyer.tasks.worker.result_backend import PollRedis

pytestmark = pytest.mark.filterwarnings(
    "ignore:Call to deprecated setex:DeprecationWarning"  # Celery 5.7 on redis-py 8
)


def test_it_is_celerys_backend_by_its_url(redis_url: str) -> None:
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


def test_a_result_never_turns_from_success_to_failure(redis_url: str) -> None:
    """A task delivered twice may fail the second time, when its payloads are gone."""
    app = make_app(redis_url)
    app.backend.store_result("b", 1, "SUCCESS")
    app.backend.store_result("b", OSError("gone"), "FAILURE")
    assert app.AsyncResult("b").status == "SUCCESS"


@pytest.mark.parametrize("method", ["start", "consume_from", "cancel_for"])
def test_celery_still_calls_what_is_silenced(method: str) -> None:
    """Guards the override: a method that Celery renames would subscribe again."""
    assert callable(getattr(RedisBackend.ResultConsumer, method))
    assert callable(RedisBackend.on_task_call)
