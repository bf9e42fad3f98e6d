"""The app's settings and their effects, each with the failure that it prevents."""

import os
import threading
from typing import Any

import pytest
import redis
from celery import Celery, current_app, signature
from celery.exceptions import QueueNotFound
from kombu.exceptions import ContentDisallowed

from oyer.protocol import names
from oyer.tasks.app import VISIBILITY_TIMEOUT_S, make_app
from oyer.tasks.worker.message_lease import MessageLease
from oyer.tasks.worker.result_backend import PollRedis

URL = "redis://127.0.0.1:6379/0"


@pytest.fixture
def app() -> Celery:
    """An app without a connection."""
    return make_app(URL, result_expires_s=7200)


@pytest.mark.parametrize(
    ("setting", "value", "trap"),
    [
        ("task_acks_late", True, "a killed worker's messages are lost"),
        ("task_reject_on_worker_lost", True, "a killed pool process's messages are lost"),
        ("worker_prefetch_multiplier", 2, "1: the Redis poll sleeps 2 s when the window is full"),
        ("worker_deduplicate_successful_tasks", False, "a kill before counting hangs the chord"),
        ("result_backend_thread_safe", True, "a backend and a connection for every greenlet"),
        ("result_backend_always_retry", True, "a restart of Redis fails chords that end then"),
        ("result_backend_max_retries", 30, "a task waits for a lost Redis without limit"),
        ("result_expires", 7200, "a chord that outlives its state never fires"),
        ("result_chord_expires", 7200, "a chord that outlives its state never fires"),
        ("task_serializer", "json", "pickle executes code"),
        ("result_serializer", "json", "pickle executes code"),
        ("accept_content", ["json"], "pickle executes code"),
        ("result_accept_content", ["json"], "pickle executes code"),
        ("result_extended", False, "arguments are stored with results"),
        ("worker_send_task_events", False, "an event for each task costs as much as the task"),
        ("task_create_missing_queues", False, "a misspelt queue swallows messages"),
        (
            "worker_cancel_long_running_tasks_on_connection_loss",
            False,
            "paid calls are cancelled",
        ),
        (
            "visibility_timeout",
            VISIBILITY_TIMEOUT_S,
            "a killed worker's messages return after an hour",
        ),
    ],
)
def test_a_setting_prevents_its_failure(app: Celery, setting: str, value: Any, trap: str) -> None:
    assert app.conf[setting] == value, trap


@pytest.mark.parametrize(
    "options", ["broker_transport_options", "result_backend_transport_options"]
)
def test_a_killed_workers_messages_return_after_10_s(app: Celery, options: str) -> None:
    assert app.conf[options]["visibility_timeout"] == VISIBILITY_TIMEOUT_S == 10


def test_the_connection_pool_is_larger_than_the_greenlet_pool(app: Celery) -> None:
    """Kombu's default of 10 leaves messages unacknowledged and their prefetch slots taken."""
    most_greenlets = 200
    assert app.conf.broker_transport_options["max_connections"] >= most_greenlets + 50
    assert app.conf.redis_max_connections >= most_greenlets + 50


def test_a_dead_connection_is_noticed(app: Celery) -> None:
    assert app.conf.broker_transport_options["socket_keepalive"]
    assert app.conf.broker_transport_options["health_check_interval"] == 10
    assert app.conf.redis_backend_health_check_interval == 10


def test_a_dead_workers_claim_on_a_callback_expires_before_its_message_returns(
    app: Celery,
) -> None:
    """Otherwise the redelivered part would be acknowledged without firing the callback."""
    backend: Any = app.backend
    callback = signature(names.COMBINE_TASK, app=app)
    first_s = max(5, int(app.conf.result_chord_join_timeout * 2))
    assert backend._chord_publish_claim_expires(first_s, callback) < VISIBILITY_TIMEOUT_S


def test_every_worker_renews_its_leases(app: Celery) -> None:
    assert MessageLease in app.steps["consumer"]


@pytest.mark.parametrize("task", names.QUEUE_OF_TASK)
def test_a_task_is_routed_to_its_queue(app: Celery, task: str) -> None:
    route = app.amqp.router.route({}, task)
    assert route["queue"].name == names.QUEUE_OF_TASK[task]


def test_unknown_queues_are_refused(app: Celery) -> None:
    assert set(app.amqp.queues) == set(names.QUEUES)
    with pytest.raises(QueueNotFound):
        app.amqp.router.route({"queue": "jugde"}, names.JUDGE_TASK)


def test_several_apps_coexist_and_none_becomes_celerys_current_app() -> None:
    first, second = make_app(URL), make_app("redis://127.0.0.1:6380/0")
    assert first.conf.broker_url != second.conf.broker_url
    assert current_app.main not in (first.main, second.main)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("CELERY_BROKER_URL", "redis://127.0.0.1:9/0"),
        ("CELERY_BROKER_READ_URL", "redis://127.0.0.1:9/0"),
        ("CELERY_BROKER_WRITE_URL", "redis://127.0.0.1:9/0"),
        ("CELERY_RESULT_BACKEND", "rpc://"),
        ("CELERY_CONFIG_MODULE", "of_another_program"),
        ("CELERY_LOADER", "of.another:Program"),
        ("DJANGO_SETTINGS_MODULE", "of_another_program"),
    ],
)
def test_the_environment_of_another_celery_program_is_ignored(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    app = make_app(URL)
    assert app.connection_for_read().as_uri(include_password=True) == "redis://127.0.0.1:6379/0"
    assert app.connection_for_write().as_uri(include_password=True) == "redis://127.0.0.1:6379/0"
    assert app.connection().as_uri(include_password=True) == "redis://127.0.0.1:6379/0"
    assert app.conf.broker_url == URL
    assert type(app.backend) is PollRedis
    assert app.conf.task_acks_late
    assert os.environ[variable] == value


def test_all_threads_share_one_result_backend(app: Celery) -> None:
    mine = app.backend
    seen: list[Any] = []
    threads = [threading.Thread(target=lambda: seen.append(app.backend)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [backend is mine for backend in seen] == [True] * 4
    assert type(mine) is PollRedis


def test_a_pickled_message_is_refused(redis_url: str) -> None:
    app = make_app(redis_url)
    with app.connection() as connection:
        channel = connection.channel()
        queue = app.amqp.queues["judge"](channel)
        queue.declare()
        producer = connection.Producer(channel, serializer="pickle")
        producer.publish({"a": 1}, routing_key="judge", exchange="judge")
        message = queue.get(no_ack=True, accept=app.conf.accept_content)
        assert message is not None
        with pytest.raises(ContentDisallowed):
            message.decode()


def test_sending_a_task_subscribes_to_nothing(redis_url: str) -> None:
    app = make_app(redis_url)
    app.send_task(names.JUDGE_TASK, kwargs={})
    with redis.Redis.from_url(redis_url) as client:
        assert client.pubsub_channels() == []
        assert client.llen("judge") == 1
