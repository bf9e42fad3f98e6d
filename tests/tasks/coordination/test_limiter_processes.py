"""Limits over all workers: real processes, a real Redis and the log of a real server."""

import bisect
import contextlib
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests.support.limiters import give, limiter, limits, take, worker

WORKERS = 4
DELAY_S = 1.0
"""Longest time from permit to arrival, as with windows of a minute: the processes share few cores."""


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


def serve_workers(
    redis_url: str, *, enough: int, tokens: int = 1, latency_s: float = 0.03, **job: Any
) -> JudgeServer:
    """Let four workers call a server until `enough` calls have arrived; return it."""
    limiter = job.pop("limiter")
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(JudgeServer(latency_s, tokens, enough))
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        stack.callback(thread.join)
        stack.callback(server.shutdown)
        for i in range(WORKERS):
            named = limiter | {"worker_id": f"w{i}"}
            stack.enter_context(worker(redis_url, named, port=server.server_port, **job))
        assert server.has_enough.wait(250)
    return server


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
        limiter=limits(requests_per_minute=allowed, window_s=window_s, delay_s=DELAY_S),
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
        limiter=limits(tokens_per_minute=allowed * tokens, window_s=window_s, delay_s=DELAY_S),
        greenlets=10,
        estimated_tokens=3 * tokens,
    )
    check_windows(server, allowed, window_s)


def test_the_server_never_sees_more_calls_in_flight_than_allowed(redis_url: str) -> None:
    allowed = 30
    server = serve_workers(
        redis_url,
        enough=600,
        # So long that all calls in flight have arrived before the first one ends.
        latency_s=0.2,
        limiter=limits(max_in_flight=allowed),
        greenlets=20,
        estimated_tokens=1,
    )
    assert 0.9 * allowed <= server.most_in_flight <= allowed


def test_a_killed_workers_slots_become_free_after_its_time_to_live(redis_url: str) -> None:
    slots = limits(max_in_flight=6, worker_ttl_s=3.0)
    with limiter(redis_url, "survivor", max_in_flight=6, worker_ttl_s=3.0) as survivor:
        job = {"greenlets": 6, "estimated_tokens": 1}
        with worker(redis_url, slots | {"worker_id": "killed"}, **job) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "holding\n"
            assert take(survivor, 1, 0.4) == []
        permits = take(survivor, 6, 10)
        assert len(permits) == 6
        give(survivor, permits)
