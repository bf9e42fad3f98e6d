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
from typing import Any

from redis import Redis, RedisError

from oyer.tasks.judging.adaptive import Control, Evidence, initial, step
from oyer.tasks.judging.ledger import Ledger
from oyer.tasks.judging.shared import Outage, load_script
from oyer.tasks.judging.standing import Standing

POLL_MIN_S, POLL_MAX_S = 0.05, 0.25
"""Pauses between exchanges while calls wait: the shorter after progress, in seconds."""
MAX_COOL_S = 120.0
"""Longest Retry-After that stops everyone, in seconds, then it is tried again (openai-python)."""


@dataclass(frozen=True, slots=True)
class Permit:
    """Leave to make one call; `Limiter.release` takes it back."""

    bucket: int
    """Slice of time that the call is charged to."""
    tokens: int
    """Tokens charged for it."""


@dataclass(eq=False, slots=True)
class _Waiter:
    tokens: int
    permit: Permit | None = None
    ready: threading.Event = field(default_factory=threading.Event)


@dataclass(slots=True)
class _Demand:
    """What the calls wanted and did since the last exchange."""

    wanted: int = 0
    """Most calls in flight and waiting at once."""
    peak: int = 0
    """Most calls in flight at once."""
    begun: int = 0
    begun_tokens: int = 0
    cool_s: float = 0.0
    """Longest Retry-After."""
    evidence: Evidence = Evidence()


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
        self._key = f"oyer:limits:1:{{{endpoint}}}"
        self._script = load_script(redis, "lease")
        self._outage = Outage(f"endpoint {endpoint!r} keeps to this worker's share of its limits")
        self._max_in_flight = max_in_flight
        self._requests_limit = requests_per_minute or 0
        self._tokens_limit = tokens_per_minute or 0
        self._use_s = window_s / 40
        self._bucket_s = window_s / 120
        self._window_s = window_s + self._use_s + (window_s / 60 if delay_s is None else delay_s)
        self._refresh_s = lease_s / 3
        self._about_me = {
            "worker": worker_id,
            "lease": int(lease_s * 1000),
            "window": int(self._window_s * 1000),
            "bucket": int(self._bucket_s * 1000),
            "max_cool": int(MAX_COOL_S * 1000),
            "max_in_flight": max_in_flight,
            "requests_limit": self._requests_limit,
            "tokens_limit": self._tokens_limit,
            "adaptive": adaptive,
        }
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._closing = False
        self._thread: threading.Thread | None = None
        self._waiting: deque[_Waiter] = deque()
        self._in_use = 0
        self._demand = _Demand()
        self._ledger = Ledger()
        self._standing = Standing(lease_s=lease_s, share=share)
        self._control = ""
        self._poll_s = POLL_MIN_S

    def acquire(self, estimated_tokens: int, deadline: float) -> Permit | None:
        """Wait until a call may be made.

        Args:
            estimated_tokens: Prompt and reply together; more than the limit counts as the limit.
            deadline: Epoch seconds.

        Returns:
            A permit for `release`, or None when there is none before the deadline.
        """
        until_s = time.monotonic() + deadline - time.time()
        waiter = _Waiter(min(estimated_tokens, self._tokens_limit))
        with self._lock:
            self._start()
            self._waiting.append(waiter)
            self._pump()
            if waiter.permit is None and len(self._waiting) == 1:
                self._wake.set()
        while waiter.permit is None:
            left_s = until_s - time.monotonic()
            if left_s <= 0 or self._standing.cool_until_s > until_s:
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
        with self._lock:
            now_s = time.monotonic()
            self._in_use -= 1
            if self._tokens_limit and used_tokens is not None:
                over = used_tokens - permit.tokens
                # What was not used goes back to where it came from; over-use counts from now.
                self._ledger.charge(self._bucket(now_s) if over > 0 else permit.bucket, 0, over)
            self._demand.evidence += Evidence(
                clean=int(clean and not rate_limited and not transient),
                transient=transient,
                rate_limited=rate_limited,
            )
            if rate_limited and retry_after_s:
                cool_s = min(retry_after_s, MAX_COOL_S)
                self._demand.cool_s = max(self._demand.cool_s, cool_s)
                self._standing.cool(now_s + cool_s)
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

    def _bucket(self, at_s: float) -> int:
        return int((at_s + self._standing.clock_s) / self._bucket_s)

    def _pump(self) -> None:
        """Hand permits to the first waiters while slots, requests and tokens last."""
        now_s, demand = time.monotonic(), self._demand
        demand.wanted = max(demand.wanted, self._in_use + len(self._waiting))
        while self._waiting and self._in_use < self._standing.slots(now_s, self._max_in_flight):
            permit = self._pay(now_s, self._waiting[0].tokens)
            if permit is None:
                break
            waiter = self._waiting.popleft()
            self._in_use += 1
            demand.begun += 1
            demand.begun_tokens += permit.tokens
            waiter.permit = permit
            waiter.ready.set()
        demand.peak = max(demand.peak, self._in_use)

    def _pay(self, now_s: float, tokens: int) -> Permit | None:
        """Charge a call to the blocks held or, alone, to this worker's share of the window."""
        requests = min(1, self._requests_limit)
        if not self._standing.alone(now_s):
            bucket = self._ledger.spend(now_s, requests, tokens)
            return None if bucket is None else Permit(bucket, tokens)
        own_requests = self._standing.own(self._requests_limit)
        own_tokens = self._standing.own(self._tokens_limit)
        tokens = min(tokens, own_tokens)
        spent = self._ledger.total(self._bucket(now_s - self._window_s))
        if requests and spent[0] + requests > own_requests:
            return None
        if tokens and spent[1] + tokens > own_tokens:
            return None
        bucket = self._bucket(now_s)
        self._ledger.charge(bucket, requests, tokens)
        return Permit(bucket, tokens)

    def _start(self) -> None:
        if self._thread is None:
            self._standing.begin(time.monotonic())
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
            ends_s = max(self._standing.cool_until_s, self._standing.frees_s) - now_s
            return min(self._poll_s, ends_s) if ends_s > 0 else self._poll_s
        idle = self._standing.held > self._in_use or any(self._ledger.balance(now_s))
        return min(POLL_MAX_S, self._refresh_s) if idle else self._refresh_s

    def _exchange(self) -> None:
        """Report to Redis and take what it grants."""
        with self._lock:
            sent_s = time.monotonic()
            demand, self._demand = self._demand, _Demand()
            ask = self._ask(demand, sent_s)
        try:
            reply = json.loads(self._script(keys=[self._key], args=[json.dumps(ask)]))
        except RedisError as error:
            self._outage.begin(error)
            reply = None
        else:
            self._outage.end()
        with self._lock:
            if reply is None:
                self._ledger.doubt(ask["changes"])
            granted = reply is not None and self._take(reply, ask, sent_s)
            if reply is None or reply.get("control") != ask["control_now"]:
                # Nobody, or another worker first: the same evidence is weighed again.
                self._demand.evidence += demand.evidence
            if reply is None or reply.get("lost"):
                self._demand.cool_s = max(self._demand.cool_s, demand.cool_s)
            self._poll_s = POLL_MIN_S if granted else min(POLL_MAX_S, self._poll_s * 1.5)

    def _ask(self, demand: _Demand, now_s: float) -> dict[str, Any]:
        """Return what to tell Redis; `lease.lua` says what becomes of it."""
        if self._closing:
            now_s = float("inf")
        held = self._standing.settle(now_s, self._in_use)
        requests, tokens = self._ledger.balance(now_s)
        ...
        return {}
