"""Single flight over all processes: one process calls for a request, the others wait for its reply.

What it promises and how: docs/internals/single_flight.md.
"""

import random
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from redis import Redis, RedisError

from oyer.protocol.redis_client import Outage, load_script
from oyer.tasks.coordination.reply_cache import reply_key

POLL_MIN_S, POLL_MAX_S = 0.02, 0.5
"""Pauses between two polls of the awaited requests, in seconds; they grow while nothing changes."""
GATHER_S = 0.02
"""Requests that end within this many seconds are reported together."""

WaitResult = Literal["done", "free", "expired"]


@dataclass(eq=False, slots=True)
class _AwaitedRequest:
    """One request that calls of this process wait for."""

    waiters: int = 0
    result: WaitResult = "expired"
    ended: threading.Event = field(default_factory=threading.Event)


class SingleFlight:
    """Claims on requests, by request key; one object per process, created after any fork.

    Args:
        redis: Client made by `redis_connection.connect`.
        owner: Unique among all processes of all hosts.
        claim_ttl_s: A claim that is not renewed expires after this many seconds.
    """

    def __init__(self, redis: Redis, owner: str, claim_ttl_s: float = 15.0) -> None:
        self._redis = redis
        self._owner = owner
        self._ttl_s = claim_ttl_s
        self._claim_script = load_script(redis, __package__, "claim_requests")
        self._renew_script = load_script(redis, __package__, "renew_claims")
        self._release_script = load_script(redis, __package__, "release_claims")
        self._outage = Outage("identical requests of several processes may each be paid for")
        self._held: dict[str, threading.Event] = {}
        self._to_release: set[str] = set()
        self._lost: set[str] = set()
        self._awaited: dict[str, _AwaitedRequest] = {}
        self._renew_at_s = self._poll_at_s = 0.0
        self._pause_s = POLL_MIN_S
        self._answered_s = self._renewed_s = time.monotonic()
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._closing = False
        self._thread: threading.Thread | None = None

    def claim(self, keys: Sequence[str]) -> dict[str, bool]:
        """Claim requests in one round trip; returns for each whether the caller is to call for it.

        The caller holds a claimed request until `release`, and uses `wait` for the others. While
        Redis is unreachable every request counts as claimed.
        """
        with self._lock:
            self._start()
            unheld = [key for key in dict.fromkeys(keys) if key not in self._held]
        claims = dict.fromkeys(keys, False)
        if not unheld:
            return claims
        try:
            claimed = self._claim_script(
                keys=[*map(_claim_key, unheld), *map(reply_key, unheld)],
                args=[self._owner, str(int(self._ttl_s * 1000))],
            )
        except RedisError as error:
            self._outage.begin(error)
            return claims | dict.fromkeys(unheld, True)
        self._outage.end()
        with self._lock:
            for key in (unheld[index - 1] for index in claimed):
                self._to_release.discard(key)
                self._lost.discard(key)
                self._held[key] = threading.Event()
                claims[key] = True
        return claims

    def release(self, key: str) -> None:
        """Give up a claim, after the reply was cached or if there is none."""
        with self._lock:
            self._lost.discard(key)
            event = self._held.pop(key, None)
            if event is None:
                return
            self._to_release.add(key)
        event.set()
        self._wake.set()

    def holds(self, key: str) -> bool:
        """Return whether a claim is still this process's; checked before each attempt.

        A process that was paused or cut off for longer than `claim_ttl_s` may have lost claims. If
        Redis is unreachable, assume that the claim is still valid.
        """
        if time.monotonic() - self._renewed_s > self._ttl_s:
            try:
                self._renew()
            except RedisError as error:
                self._outage.begin(error)
        return key not in self._lost

    def wait(self, key: str, deadline: float) -> WaitResult:
        """Wait for a request that another call has claimed.

        Args:
            deadline: Epoch seconds.

        Returns:
            `done`: the reply is cached. `free`: no process holds a claim any more, so `claim` it.
            `expired`: neither before the deadline.
        """
        until_s = time.monotonic() + deadline - time.time()
        with self._lock:
            self._start()
            held_here = self._held.get(key)
        if held_here is not None and not held_here.wait(max(0.0, until_s - time.monotonic())):
            return "expired"
        with self._lock:
            awaited = self._awaited.setdefault(key, _AwaitedRequest())
            awaited.waiters += 1
            self._pause_s, self._poll_at_s = POLL_MIN_S, 0.0
        self._wake.set()
        awaited.ended.wait(max(0.0, until_s - time.monotonic()))
        with self._lock:
            awaited.waiters -= 1
            if not awaited.waiters and self._awaited.get(key) is awaited:
                del self._awaited[key]
            return awaited.result

    def close(self) -> None:
        """Release every claim and stop the thread."""
        with self._lock:
            self._closing, thread = True, self._thread
            self._to_release |= self._held.keys()
        self._wake.set()
        if thread is not None:
            thread.join()

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="oyer-flight", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while not self._closing:
            self._wake.clear()
            self._synchronize(time.monotonic())
            with self._lock:
                next_s = self._renew_at_s
                if self._awaited:
                    next_s = min(next_s, self._poll_at_s)
            if not self._closing and self._wake.wait(max(0.0, next_s - time.monotonic())):
                # Calls end in bursts: one round trip for all that end within this time.
                time.sleep(GATHER_S)
        self._synchronize(time.monotonic())

    def _synchronize(self, now_s: float) -> None:
        """Release and renew claims and poll awaited requests, each when due."""
        try:
            contacted = self._send_releases()
            if now_s >= self._renew_at_s:
                contacted |= self._renew()
                self._renew_at_s = now_s + self._ttl_s / 3
            if now_s >= self._poll_at_s:
                contacted |= self._poll()
                self._poll_at_s = now_s + self._pause_s * random.uniform(0.8, 1.2)
        except RedisError as error:
            self._outage.begin(error)
            self._renew_at_s = self._poll_at_s = now_s + POLL_MAX_S
            if now_s > self._answered_s + self._ttl_s:
                with self._lock:
                    self._end_waits(dict.fromkeys(self._awaited, "free"))
        else:
            self._answered_s = now_s
            if contacted:
                self._outage.end()

    def _send_releases(self) -> bool:
        """Delete released claims from Redis; returns whether there were any."""
        with self._lock:
            released = list(self._to_release)
        if released:
            self._release_script(keys=[_claim_key(key) for key in released], args=[self._owner])
            with self._lock:
                self._to_release.difference_update(released)
        return bool(released)

    def _renew(self) -> bool:
        """Renew the claims held and note the lost ones; returns whether there are any."""
        begun_s = time.monotonic()
        with self._lock:
            held = list(self._held.items())
        if not held:
            self._renewed_s = begun_s
            return False
        lost = self._renew_script(
            keys=[_claim_key(key) for key, _ in held],
            args=[self._owner, str(int(self._ttl_s * 1000))],
        )
        with self._lock:
            for key, ended in (held[index - 1] for index in lost):
                ended.set()
                if self._held.get(key) is ended:
                    del self._held[key]
                    self._lost.add(key)
        self._renewed_s = begun_s
        return True

    def _poll(self) -> bool:
        """Look up the awaited requests; returns whether there are any."""
        with self._lock:
            keys = list(self._awaited)
        if not keys:
            return False
        pipe = self._redis.pipeline(transaction=False)
        for key in keys:
            # In this order: a claim is released after its reply was cached.
            pipe.exists(_claim_key(key))
            pipe.exists(reply_key(key))
        answers = pipe.execute()
        ended: dict[str, WaitResult] = {}
        for key, claimed, cached in zip(keys, answers[::2], answers[1::2], strict=True):
            if cached:
                ended[key] = "done"
            elif not claimed:
                ended[key] = "free"
        with self._lock:
            self._end_waits(ended)
            self._pause_s = POLL_MIN_S if ended else min(POLL_MAX_S, self._pause_s * 1.5)
        return True

    def _end_waits(self, ended: Mapping[str, WaitResult]) -> None:
        for key, result in ended.items():
            awaited = self._awaited.pop(key, None)
            if awaited is not None:
                awaited.result = result
                awaited.ended.set()


def _claim_key(key: str) -> str:
    return f"oyer:flight:{key}"
