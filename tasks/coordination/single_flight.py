"""Single flight over all processes: identical judge requests wait for the one that is being paid.

- An optimisation: what was paid is on record in SQL, and correctness stays there. Without Redis,
  every call is paid for.
- A request is held by a lease with an owner. A dead owner's lease expires, and exactly one of those
  that wait takes over.
- One thread (or greenlet) per process renews what the process holds and asks after what it waits
  for, however many calls wait.
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
"""Pauses between two looks at the requests waited for; growing while nothing happens, seconds."""
GATHER_S = 0.02
"""What ends within this many seconds is reported together."""

Verdict = Literal["done", "free", "expired"]


@dataclass(eq=False, slots=True)
class _Wait:
    """What the calls of this process that wait for one key share."""

    waiters: int = 0
    verdict: Verdict = "expired"
    ended: threading.Event = field(default_factory=threading.Event)


class SingleFlight:
    """Claims on requests, by their `cache.request_key`; one object per process, after any fork.

    Args:
        redis: Client made by `shared.connect`.
        owner: Unique among all processes of all hosts.
        lease_s: A dead owner's requests are free after this long.
    """

    def __init__(self, redis: Redis, owner: str, lease_s: float = 15.0) -> None:
        self._redis = redis
        self._owner = owner
        self._lease_s = lease_s
        self._claim = load_script(redis, __package__, "claim")
        self._renew = load_script(redis, __package__, "renew")
        self._drop = load_script(redis, __package__, "drop")
        self._outage = Outage("identical requests of several processes may each be paid for")
        self._held: dict[str, threading.Event] = {}
        self._dropped: set[str] = set()
        self._lost: set[str] = set()
        self._waits: dict[str, _Wait] = {}
        self._renew_at_s = self._look_at_s = 0.0
        self._poll_s = POLL_MIN_S
        self._answered_s = self._renewed_s = time.monotonic()
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._closing = False
        self._thread: threading.Thread | None = None

    def claim(self, keys: Sequence[str]) -> dict[str, bool]:
        """Say of each request whether the caller is to pay for it, in one round trip.

        A claimed request is the caller's until `done`; for the others there is `wait`.
        """
        with self._lock:
            self._start()
            asked = [key for key in dict.fromkeys(keys) if key not in self._held]
        claims = dict.fromkeys(keys, False)
        if not asked:
            return claims
        try:
            leased = self._claim(
                keys=[*map(_lease_key, asked), *map(reply_key, asked)],
                args=[self._owner, str(int(self._lease_s * 1000))],
            )
        except RedisError as error:
            self._outage.begin(error)
            return claims | dict.fromkeys(asked, True)
        self._outage.end()
        with self._lock:
            for key in (asked[index - 1] for index in leased):
                self._dropped.discard(key)
                self._lost.discard(key)
                self._held[key] = threading.Event()
                claims[key] = True
        return claims

    def done(self, key: str) -> None:
        """Give a claimed request up, after its reply was cached or when there is none."""
        with self._lock:
            self._lost.discard(key)
            event = self._held.pop(key, None)
            if event is None:
                return
            self._dropped.add(key)
        event.set()
        self._wake.set()

    def ours(self, key: str) -> bool:
        """Say whether a claimed request is still the caller's, just before it is paid for.

        It is not after this process was stopped or cut off for longer than its leases. While
        Redis is away nobody can tell, and it is.
        """
        if time.monotonic() - self._renewed_s > self._lease_s:
            try:
                self._keep()
            except RedisError as error:
                self._outage.begin(error)
        return key not in self._lost

    def wait(self, key: str, deadline: float) -> Verdict:
        """Wait for a request that somebody else has claimed.

        Args:
            deadline: Epoch seconds.

        Returns:
            `done`: its reply is cached. `free`: nobody is paying for it, so `claim` it. `expired`:
            neither before the deadline.
        """
        until_s = time.monotonic() + deadline - time.time()
        with self._lock:
            self._start()
            mine = self._held.get(key)
        if mine is not None and not mine.wait(max(0.0, until_s - time.monotonic())):
            return "expired"
        with self._lock:
            wait = self._waits.setdefault(key, _Wait())
            wait.waiters += 1
            self._poll_s, self._look_at_s = POLL_MIN_S, 0.0
        self._wake.set()
        wait.ended.wait(max(0.0, until_s - time.monotonic()))
        with self._lock:
            wait.waiters -= 1
            if not wait.waiters and self._waits.get(key) is wait:
                del self._waits[key]
            return wait.verdict

    def close(self) -> None:
        """Give every claim up and stop."""
        with self._lock:
            self._closing, thread = True, self._thread
            self._dropped |= self._held.keys()
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
            self._contact(time.monotonic())
            with self._lock:
                next_s = min(self._renew_at_s, self._look_at_s) if self._waits else self._renew_at_s
            if self._wake.wait(max(0.0, next_s - time.monotonic())):
                # Calls end in bursts: one round trip for all that end within this moment.
                time.sleep(GATHER_S)
        self._contact(time.monotonic())

    def _contact(self, now_s: float) -> None:
        """Do what is due: drop, renew, look."""
        try:
            asked = self._give_up()
            if now_s >= self._renew_at_s:
                asked |= self._keep()
                self._renew_at_s = now_s + self._lease_s / 3
            if now_s >= self._look_at_s:
                asked |= self._look()
                self._look_at_s = now_s + self._poll_s * random.uniform(0.8, 1.2)
        except RedisError as error:
            self._outage.begin(error)
            self._renew_at_s = self._look_at_s = now_s + POLL_MAX_S
            if now_s > self._answered_s + self._lease_s:
                with self._lock:
                    self._resolve(dict.fromkeys(self._waits, "free"))
        else:
            self._answered_s = now_s
            if asked:
                self._outage.end()

    def _give_up(self) -> bool:
        """Drop the leases of ended requests; returns whether there were any."""
        with self._lock:
            dropped = list(self._dropped)
        if dropped:
            self._drop(keys=[_lease_key(key) for key in dropped], args=[self._owner])
            with self._lock:
                self._dropped.difference_update(dropped)
        return bool(dropped)

    def _keep(self) -> bool:
        """Renew the leases held; returns whether there are any."""
        begun_s = time.monotonic()
        with self._lock:
            held = list(self._held.items())
        if not held:
            self._renewed_s = begun_s
            return False
        lost = self._renew(
            keys=[_lease_key(key) for key, _ in held],
            args=[self._owner, str(int(self._lease_s * 1000))],
        )
        with self._lock:
            for key, ended in (held[index - 1] for index in lost):
                ended.set()
                if self._held.get(key) is ended:
                    del self._held[key]
                    self._lost.add(key)
        self._renewed_s = begun_s
        return True

    def _look(self) -> bool:
        """Ask after the requests waited for; returns whether there are any."""
        with self._lock:
            keys = list(self._waits)
        if not keys:
            return False
        pipe = self._redis.pipeline(transaction=False)
        for key in keys:
            # In this order: a lease is dropped after its reply is there.
            pipe.exists(_lease_key(key))
            pipe.exists(reply_key(key))
        answers = pipe.execute()
        ended: dict[str, Verdict] = {}
        for key, leased, replied in zip(keys, answers[::2], answers[1::2], strict=True):
            if replied:
                ended[key] = "done"
            elif not leased:
                ended[key] = "free"
        with self._lock:
            self._resolve(ended)
            self._poll_s = POLL_MIN_S if ended else min(POLL_MAX_S, self._poll_s * 1.5)
        return True

    def _resolve(self, ended: Mapping[str, Verdict]) -> None:
        for key, verdict in ended.items():
            wait = self._waits.pop(key, None)
            if wait is not None:
                wait.verdict = verdict
                wait.ended.set()


def _lease_key(key: str) -> str:
    return f"oyer:flight:{key}"
