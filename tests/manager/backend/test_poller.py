"""One thread watches all futures of a broker, and survives the errors of each."""

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from oyer.manager.backend import poller as module
from oyer.manager.backend import recovery
from oyer.manager.backend.connection import Backend
from oyer.manager.backend.poller import Poller, WatchedFuture, poller
from oyer.protocol.errors import BackendUnavailable
from tests.manager.conftest import Workers
from tests.support import services

pytestmark = pytest.mark.filterwarnings(
    "ignore:Call to deprecated setex:DeprecationWarning"  # Celery 5.7 on redis-py 8
)


OUTAGES = 50
"""Polls in vain of an outage: several times what a future that stalls would wait."""


@dataclass(eq=False)
class Future:
    """A future that records the calls of the poller."""

    batch_id: str
    stall_timeout_s: float = 60.0
    calls: list[Any] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)
    breaks: bool = False

    def finish(self, meta: dict[str, Any]) -> str | None:
        if self.breaks:
            raise KeyError("a bug")
        self.calls.append(meta["result"])
        self.ended.set()
        return None

    def resubmit(self, why: str) -> None:
        self.calls.append(f"resubmitted: {why}")

    def give_up(self, why: str) -> None:
        self.calls.append(why)
        self.ended.set()

    def fail(self, error: Exception) -> None:
        self.calls.append(error)
        self.ended.set()


class Watcher(Poller):
    """A poller that watches nothing after the test."""

    def __init__(self, url: str) -> None:
        super().__init__(Backend(url, 600))
        self.seen: list[WatchedFuture] = []
        self.failed_polls = 0
        self.outage_lasts = threading.Event()
        """Set after `OUTAGES` polls in vain."""

    def watch(self, future: WatchedFuture) -> None:
        self.seen.append(future)
        super().watch(future)

    def close(self) -> None:
        for future in self.seen:
            self.forget(future)

    def _poll(self, batches: Any) -> None:
        try:
            super()._poll(batches)
        except BackendUnavailable:
            self.failed_polls += 1
            if self.failed_polls == OUTAGES:
                self.outage_lasts.set()
            raise


@pytest.fixture
def watcher(redis_url: str) -> Iterator[Watcher]:
    with contextlib.closing(Watcher(redis_url)) as watcher:
        yield watcher


def poller_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "oyer-poller"}


def test_every_future_gets_its_own_result(watcher: Watcher, workers: Workers) -> None:
    futures = [Future(f"b{i}") for i in range(50)]
    for future in futures:
        watcher.watch(future)
    for i in reversed(range(50)):
        workers.store(f"b{i}", i)
    for i, future in enumerate(futures):
        assert future.ended.wait(60)
        assert future.calls == [i]


def test_two_futures_of_one_batch_both_get_the_result(watcher: Watcher, workers: Workers) -> None:
    first, second = Future("b"), Future("b")
    watcher.watch(first)
    watcher.watch(second)
    workers.store("b", 1)
    assert first.ended.wait(60)
    assert second.ended.wait(60)


def test_one_thread_serves_all_futures(watcher: Watcher, workers: Workers) -> None:
    before = poller_threads()
    for i in range(20):
        watcher.watch(Future(f"b{i}"))
    assert len(poller_threads() - before) == 1


def test_a_forgotten_future_gets_no_result(watcher: Watcher, workers: Workers) -> None:
    forgotten, kept = Future("b"), Future("b")
    watcher.watch(forgotten)
    watcher.watch(kept)
    watcher.forget(forgotten)
    watcher.forget(forgotten)
    # A poll that has begun may still end it: wait for the next one.
    mark = Future("mark")
    watcher.watch(mark)
    workers.store("mark", 0)
    assert mark.ended.wait(60)
    workers.store("b", 1)
    assert kept.ended.wait(60)
    assert forgotten.calls == []


def test_an_exception_in_one_future_becomes_its_error_and_stops_no_other(
    watcher: Watcher, workers: Workers
) -> None:
    broken, sound = Future("broken", breaks=True), Future("sound")
    watcher.watch(broken)
    watcher.watch(sound)
    workers.store("broken", 1)
    assert broken.ended.wait(60)
    assert isinstance(broken.calls[0], KeyError)
    workers.store("sound", 2)
    assert sound.ended.wait(60)
    assert sound.calls == [2]


def test_a_batch_that_is_lost_after_every_submission_fails(
    watcher: Watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery, "FAILURE_PAUSES_S", (0.0,))
    monkeypatch.setattr(recovery, "GONE_PAUSE_S", 0.0)
    future = Future("b", stall_timeout_s=0.01)
    watcher.watch(future)
    assert future.ended.wait(60)
    lost = "is no longer in Redis"
    given_up = f"{lost}; given up after 5 submissions"
    assert future.calls == [f"resubmitted: {lost}"] * 4 + [given_up]


def test_an_outage_is_logged_once_and_ends_no_future(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "_OUTAGE_S", 0.001)
    with services.redis_server() as url:
        watcher, future = Watcher(url), Future("b", stall_timeout_s=0.01)
    watcher.watch(future)
    assert watcher.outage_lasts.wait(60)
    assert future.calls == []
    place = url.removeprefix("redis://").removesuffix("/0")
    # Pollers of earlier tests may log the outages of their brokers.
    logged = [text for r in caplog.records if place in (text := r.getMessage())]
    assert len(logged) == 1
    assert "still trying" in logged[0]
    watcher.close()


def test_an_idle_poller_ends_its_thread_and_starts_a_new_one(
    watcher: Watcher, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    condition = watcher._changed
    waiting = condition.wait
    monkeypatch.setattr(condition, "wait", lambda timeout=None: waiting(0.01))
    for result in range(2):
        future = Future("b")
        watcher.watch(future)
        thread = watcher._thread
        assert thread is not None
        workers.store("b", result)
        assert future.ended.wait(60)
        thread.join(60)
        assert not thread.is_alive()
        workers.redis.flushall()


def test_a_process_has_one_poller_for_a_broker(redis_url: str) -> None:
    assert poller(redis_url, 600) is poller(redis_url, 600)
    assert poller(redis_url, 600) is not poller(redis_url, 601)
