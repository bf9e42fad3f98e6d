"""Limits of an endpoint over all workers and hosts: calls in flight, requests and tokens a minute.

What it promises and how: docs/internals/limiter.md.
"""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from redis import Redis, RedisError

from oyer.protocol.redis_client import Outage, load_script
from oyer.tasks.coordination.adaptive import Evidence
from oyer.tasks.coordination.fair_queue import ANY_FLOW, FairQueue, Flow
from oyer.tasks.coordination.held_permit import HeldPermit
from oyer.tasks.coordination.limiter_state import LimiterState, Limits, Permit

POLL_MIN_S, POLL_MAX_S, IDLE_PAUSE_S = 0.05, 0.1, 0.25
"""Pauses between exchanges, in seconds: after a grant, and while unused slots are wanted elsewhere;
while calls wait; while unused slots or windows are held."""
EXCHANGES_PER_S = 250
"""Most exchanges of all waiting workers together, since each reads the state of all."""
SPARE_WAIT_S = 0.25
"""How long `acquire_spare` waits for the answer to its exchange with Redis, in seconds."""


def limits_key(endpoint: str) -> str:
    """Redis key of an endpoint's shared limits."""
    return f"oyer:limits:1:{{{endpoint}}}"


@dataclass(eq=False, slots=True)
class _WaitingCall:
    tokens: int
    flow: Flow
    permit: Permit | None = None
    ready: threading.Event = field(default_factory=threading.Event)


class Limiter:
    """One worker process's access to one endpoint's shared limits; created after any fork.

    Args:
        redis: Client made by `redis_client.connect`.
        endpoint: Name that the workers share.
        max_in_flight: Calls in flight at once, over all workers.
        requests_per_minute: Calls begun in any `window_s`, over all workers; None for no limit.
        tokens_per_minute: Tokens of the calls begun in any `window_s`; None for no limit.
        adaptive: Find the number of calls in flight that the endpoint sustains, at most
            `max_in_flight`.
        worker_id: Unique among all processes of all hosts.
        share: Part of the limits used until Redis has been reached for the first time.
        window_s: Length of "a minute".
        worker_ttl_s: A worker that does not report for this long loses its slots.
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
        worker_ttl_s: float = 5.0,
        delay_s: float | None = None,
    ) -> None:
        limits = Limits(
            max_in_flight=max_in_flight,
            requests=requests_per_minute or 0,
            tokens=tokens_per_minute or 0,
            adaptive=adaptive,
            share=share,
            window_s=window_s,
            worker_ttl_s=worker_ttl_s,
            delay_s=window_s / 60 if delay_s is None else delay_s,
        )
        self._state = LimiterState(limits, worker_id, clock_s=time.time() - time.monotonic())
        self._key = limits_key(endpoint)
        self._script = load_script(redis, __package__, "limiter")
        self._outage = Outage(f"endpoint {endpoint!r} keeps to this worker's share of its limits")
        self._refresh_s = worker_ttl_s / 3
        self._poll_s = POLL_MIN_S
        self._waiting: FairQueue[_WaitingCall] = FairQueue()
        # Those of the waiting calls that are second requests, and those just granted.
        self._spares: list[_WaitingCall] = []
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._closing = False
        self._thread: threading.Thread | None = None

    @contextmanager
    def permit(
        self, estimated_tokens: int, deadline: float, flow: Flow = ANY_FLOW
    ) -> Iterator[HeldPermit | None]:
        """Hold a permit for one call; None if there is none before the deadline; see `acquire`."""
        with self._held(self.acquire(estimated_tokens, deadline, flow)) as held:
            yield held

    @contextmanager
    def spare_permit(
        self, estimated_tokens: int, flow: Flow = ANY_FLOW
    ) -> Iterator[HeldPermit | None]:
        """Hold a permit that no other call waits for; None if there is none; see `acquire_spare`."""
        with self._held(self.acquire_spare(estimated_tokens, flow)) as held:
            yield held

    @contextmanager
    def _held(self, permit: Permit | None) -> Iterator[HeldPermit | None]:
        if permit is None:
            yield None
            return
        held = HeldPermit()
        try:
            yield held
        finally:
            self.release(
                permit,
                used_tokens=held.used_tokens,
                evidence=held.evidence,
                retry_after_s=held.retry_after_s,
            )

    @property
    def workers(self) -> int:
        """Workers that call the endpoint, as of the last exchange; at least 1."""
        return max(1, self._state.workers)

    def acquire(
        self, estimated_tokens: int, deadline: float, flow: Flow = ANY_FLOW
    ) -> Permit | None:
        """Wait for a permit.

        Args:
            estimated_tokens: Prompt and reply together; more than the limit counts as the limit.
            deadline: Epoch seconds.
            flow: Flows share the permits by weight.

        Returns:
            A permit for `release`, or None if there is none before the deadline.
        """
        until_s = time.monotonic() + deadline - time.time()
        if until_s <= time.monotonic():
            return None
        waiter = _WaitingCall(estimated_tokens, flow)
        with self._lock:
            self._start()
            self._drop_spares()
            news = self._waiting.push(flow, waiter)
            self._pump()
            if news and waiter.permit is None:
                self._wake.set()
        while waiter.permit is None:
            left_s = until_s - time.monotonic()
            if left_s <= 0 or self._state.cool_until_s > until_s:
                break
            # Slots and blocks can expire without an exchange, so each waiter checks on its own.
            if not waiter.ready.wait(min(left_s, self._refresh_s)):
                with self._lock:
                    self._pump()
        with self._lock:
            if waiter.permit is None:
                self._waiting.remove(flow, waiter)
            return waiter.permit

    def acquire_spare(self, estimated_tokens: int, flow: Flow = ANY_FLOW) -> Permit | None:
        """Take a permit that no other call needs, for a second request of a call in flight.

        If this worker holds none, but the last exchange showed a free slot, Redis is asked once.

        Returns:
            None if calls wait, the endpoint asked for a pause, or there is no permit within
            `SPARE_WAIT_S`.
        """
        waiter = _WaitingCall(estimated_tokens, flow)
        with self._lock:
            self._start()
            if not self._may_spare():
                return None
            self._spares.append(waiter)
            self._waiting.push(flow, waiter)
            self._pump()
            if waiter.permit is not None:
                self._spares.remove(waiter)
                return waiter.permit
        self._wake.set()
        waiter.ready.wait(SPARE_WAIT_S)
        with self._lock:
            if waiter in self._spares:
                self._spares.remove(waiter)
                if waiter.permit is None:
                    self._waiting.remove(flow, waiter)
            return waiter.permit

    def release(
        self,
        permit: Permit,
        *,
        used_tokens: int | None,
        evidence: Evidence,
        retry_after_s: float | None = None,
    ) -> None:
        """End a call, once per permit.

        Args:
            used_tokens: As the endpoint reports; None keeps the estimate charged.
            evidence: What the call says about the adaptive limit.
            retry_after_s: What a 429 asked for; no worker calls before.
        """
        cool_s = (retry_after_s or 0.0) if evidence.rate_limited else 0.0
        with self._lock:
            self._state.end(time.monotonic(), permit, used_tokens, evidence, cool_s)
            self._waiting.end(permit.flow)
            granted = self._pump()
        if evidence.rate_limited:
            self._wake.set()
        if granted:
            # The next request is sent before the work on this reply goes on.
            time.sleep(0)

    def close(self) -> None:
        """Return everything held and stop the thread; no call may be in flight."""
        with self._lock:
            self._closing, thread = True, self._thread
        self._wake.set()
        if thread is not None:
            thread.join()

    def may_spare(self) -> bool:
        """Whether there may be a permit that no call waits for."""
        with self._lock:
            return self._may_spare()

    def _may_spare(self) -> bool:
        others = len(self._waiting) - sum(spare.permit is None for spare in self._spares)
        return not others and self._state.room(time.monotonic())

    def _drop_spares(self) -> None:
        """Let waiting second requests give up: a call of its own has arrived."""
        for spare in self._spares:
            if spare.permit is None:
                self._waiting.remove(spare.flow, spare)
            spare.ready.set()
        self._spares.clear()

    def _pump(self) -> bool:
        """Grant permits to waiting calls in fair order, while slots, requests and tokens last.

        Returns whether it granted any.
        """
        granted = False
        now_s = time.monotonic()
        self._state.want(len(self._waiting))
        shares = {} if self._state.alone(now_s) else self._state.shares
        while (waiter := self._waiting.next(shares)) is not None:
            waiter.permit = self._state.begin(now_s, waiter.tokens, waiter.flow.name)
            if waiter.permit is None:
                break
            self._waiting.begin(waiter.flow)
            waiter.ready.set()
            granted = True
        return granted

    def _start(self) -> None:
        if self._thread is None:
            self._state.open(time.monotonic())
            self._thread = threading.Thread(target=self._run, name="oyer-limits", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        # Leaving is one exchange: a second one would return the same grants again.
        while not self._closing:
            self._wake.clear()
            self._exchange(leave=False)
            with self._lock:
                self._pump()
                pause_s = self._pause_s()
            if not self._closing:
                self._wake.wait(pause_s)
        self._exchange(leave=True)

    def _pause_s(self) -> float:
        now_s = time.monotonic()
        if self._waiting:
            # The end of a cool-down or a full window is known; other workers may return some earlier.
            ends_s = max(self._state.cool_until_s, self._state.frees_s) - now_s
            return min(self._poll_s, ends_s) if ends_s > 0 else self._poll_s
        if self._state.holds_wanted_slots():
            return POLL_MIN_S
        return min(IDLE_PAUSE_S, self._refresh_s) if self._state.idle(now_s) else self._refresh_s

    def _exchange(self, *, leave: bool) -> None:
        """Report to Redis and apply what it grants."""
        with self._lock:
            sent_s = time.monotonic()
            waiting = [waiter.tokens for waiter in self._waiting.waiting(self._state.shares)]
            ask = self._state.ask(sent_s, waiting, flows=self._waiting.demand(), leave=leave)
        granted = False
        try:
            reply = json.loads(self._script(keys=[self._key], args=[json.dumps(ask)]))
        except RedisError as error:
            self._outage.begin(error)
            with self._lock:
                self._state.fail()
        else:
            self._outage.end()
            if not leave:
                with self._lock:
                    granted = self._state.take(reply, sent_s, time.monotonic())
        longest_s = max(POLL_MAX_S, self.workers / EXCHANGES_PER_S)
        self._poll_s = POLL_MIN_S if granted else min(longest_s, self._poll_s * 1.5)
