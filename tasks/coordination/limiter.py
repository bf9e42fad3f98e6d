"""Limits of an endpoint over all workers and hosts: calls in flight, requests and tokens a minute.

- A worker holds slots and blocks of requests and tokens, exchanged in the background; a call takes
  its permit from them without a round trip.
- Slots are leased. A worker that cannot renew stops relying on them before Redis gives them away,
  and keeps to its share: the limit divided by the workers last seen alive. There is never no limit.
- A block is charged to a slice of Redis time when granted and must soon be used; the window is
  longer by that time and by the delay a call may meet on its way, so that the endpoint itself never
  sees more than the limit in any window.
- Built per process, after any fork. Threads or gevent greenlets, whichever `threading` gives.
"""

import json
import threading
import time
from collections import deque
from dataclasses import dataclass, field

from redis import Redis, RedisError

from oyer.protocol.redis_client import Outage, load_script
from oyer.tasks.coordination.adaptive import Evidence
from oyer.tasks.coordination.limiter_state import LimiterState, Limits, Permit

POLL_MIN_S, POLL_MAX_S = 0.05, 0.25
"""Pauses between exchanges while calls wait: the shorter after progress, in seconds."""


def limits_key(endpoint: str) -> str:
    """Redis key of an endpoint's shared limits."""
    return f"oyer:limits:1:{{{endpoint}}}"


@dataclass(eq=False, slots=True)
class _Waiter:
    tokens: int
    permit: Permit | None = None
    ready: threading.Event = field(default_factory=threading.Event)


class Limiter:
    """One worker process's access to the shared limits of one endpoint.

    Args:
        redis: Client made by `shared.connect`.
        endpoint: Name that the workers share.
        max_in_flight: Calls under way at once, over all workers.
        requests_per_minute: Calls begun in any `window_s`, over all workers; None for no limit.
        tokens_per_minute: Tokens of the calls begun in any `window_s`; None for no limit.
        adaptive: Find the calls in flight that the endpoint bears, up to `max_in_flight`.
        worker_id: Unique among all processes of all hosts.
        share: Part of the limits used alone while Redis has never been reached.
        window_s: What "a minute" is.
        lease_s: A worker silent for this long loses its slots.
        delay_s: Longest time from permit to arrival at the endpoint; a sixtieth of the window.
    """

    def __init__(
        self,
        redis: Redis,
        endpoint: str,
        *,
        max_in_flight: int,
        requests_per_minute: int | None,
        tokens_per_minute: int | None,
        adaptive: bool,
        worker_id: str,
        share: float = 0.125,
        window_s: float = 60.0,
        lease_s: float = 5.0,
        delay_s: float | None = None,
    ) -> None:
        limits = Limits(
            max_in_flight=max_in_flight,
            requests=requests_per_minute or 0,
            tokens=tokens_per_minute or 0,
            adaptive=adaptive,
            share=share,
            window_s=window_s,
            lease_s=lease_s,
            delay_s=window_s / 60 if delay_s is None else delay_s,
        )
        self._account = LimiterState(limits, worker_id, clock_s=time.time() - time.monotonic())
        self._key = limits_key(endpoint)
        self._script = load_script(redis, __package__, "lease")
        self._outage = Outage(f"endpoint {endpoint!r} keeps to this worker's share of its limits")
        self._refresh_s = lease_s / 3
        self._poll_s = POLL_MIN_S
        self._waiting: deque[_Waiter] = deque()
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._closing = False
        self._thread: threading.Thread | None = None

    def acquire(self, estimated_tokens: int, deadline: float) -> Permit | None:
        """Wait until a call may be made.

        Args:
            estimated_tokens: Prompt and reply together; more than the limit counts as the limit.
            deadline: Epoch seconds.

        Returns:
            A permit for `release`, or None when there is none before the deadline.
        """
        until_s = time.monotonic() + deadline - time.time()
        if until_s <= time.monotonic():
            return None
        waiter = _Waiter(estimated_tokens)
        with self._lock:
            self._start()
            self._waiting.append(waiter)
            self._pump()
            if waiter.permit is None and len(self._waiting) == 1:
                self._wake.set()
        while waiter.permit is None:
            left_s = until_s - time.monotonic()
            if left_s <= 0 or self._account.cool_until_s > until_s:
                break
            # Leases and blocks end by time alone, so each waiter looks now and then by itself.
            if not waiter.ready.wait(min(left_s, self._refresh_s)):
                with self._lock:
                    self._pump()
        with self._lock:
            if waiter.permit is None:
                self._waiting.remove(waiter)
            return waiter.permit

    def release(
        self,
        permit: Permit,
        *,
        used_tokens: int | None,
        rate_limited: bool = False,
        retry_after_s: float | None = None,
        transient: bool = False,
        clean: bool = True,
    ) -> None:
        """End a call, once per permit.

        Args:
            used_tokens: As the endpoint reports; None keeps the estimate charged.
            rate_limited: The reply was a 429.
            retry_after_s: What that 429 asked for; nobody calls before.
            transient: It failed by timeout, connection or 5xx.
            clean: Otherwise: it succeeded at its first attempt, as evidence for a higher limit.
        """
        evidence = Evidence(
            clean=int(clean and not rate_limited and not transient),
            transient=transient,
            rate_limited=rate_limited,
        )
        cool_s = (retry_after_s or 0.0) if rate_limited else 0.0
        with self._lock:
            self._account.end(time.monotonic(), permit, used_tokens, evidence, cool_s)
            self._pump()
        if rate_limited:
            self._wake.set()

    def close(self) -> None:
        """Give everything back; no call may be under way."""
        with self._lock:
            self._closing, thread = True, self._thread
        self._wake.set()
        if thread is not None:
            thread.join()

    def _pump(self) -> None:
        """Hand permits to the first waiters while slots, requests and tokens last."""
        now_s = time.monotonic()
        self._account.want(len(self._waiting))
        while self._waiting:
            permit = self._account.begin(now_s, self._waiting[0].tokens)
            if permit is None:
                break
            waiter = self._waiting.popleft()
            waiter.permit = permit
            waiter.ready.set()

    def _start(self) -> None:
        if self._thread is None:
            self._account.open(time.monotonic())
            self._thread = threading.Thread(target=self._run, name="oyer-limits", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while not self._closing:
            self._wake.clear()
            self._exchange()
            with self._lock:
                self._pump()
                pause_s = self._pause_s()
            self._wake.wait(pause_s)
        self._exchange()

    def _pause_s(self) -> float:
        now_s = time.monotonic()
        if self._waiting:
            # A cool-down or a full window says when it ends; returns by others may come earlier.
            ends_s = max(self._account.cool_until_s, self._account.frees_s) - now_s
            return min(self._poll_s, ends_s) if ends_s > 0 else self._poll_s
        return min(POLL_MAX_S, self._refresh_s) if self._account.idle(now_s) else self._refresh_s

    def _exchange(self) -> None:
        """Report to Redis and take what it grants."""
        with self._lock:
            sent_s, leave = time.monotonic(), self._closing
            waiting = [waiter.tokens for waiter in self._waiting]
            ask = self._account.ask(sent_s, waiting, leave=leave)
        granted = False
        try:
            reply = json.loads(self._script(keys=[self._key], args=[json.dumps(ask)]))
        except RedisError as error:
            self._outage.begin(error)
            with self._lock:
                self._account.fail()
        else:
            self._outage.end()
            if not leave:
                with self._lock:
                    granted = self._account.take(reply, sent_s, time.monotonic())
        self._poll_s = POLL_MIN_S if granted else min(POLL_MAX_S, self._poll_s * 1.5)
