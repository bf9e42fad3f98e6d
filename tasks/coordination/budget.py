"""The money of a run: reserved before each call, reconciled after it, over all workers and hosts.

- Redis holds what was spent and what is reserved; the SQL record says it again where Redis has
  lost it. What is spent and not on record yet, each worker remembers until it is.
- Far from the limit a worker reserves for several calls ahead, so that a call costs no round trip.
- A call waits while only reservations stand in its way, since most calls cost less than reserved.
- Without Redis nothing can be reserved: calls wait for it, up to their batch's deadline.
"""

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from redis import Redis, RedisError

from oyer.config.reward import Budget
from oyer.protocol.redis_client import Outage, load_script

AHEAD_CALLS = 32
"""Calls to reserve for ahead of time."""
SPARE_S = 10.0
"""How long what was reserved ahead may be used, in seconds."""
MARGIN_S = 20.0
"""A reservation is kept this much longer than its call may last, in seconds."""
POLL_S = 0.1
"""Pause before asking again for what others hold, in seconds."""

NANO = 1_000_000_000

Refusal = Literal["soft", "hard", "expired"]
"""Why a call may not begin: the soft mark is passed, its cost would pass the limit, no time."""


def budget_key(run: str) -> str:
    """Redis key of what a run has spent and reserved."""
    return f"oyer:budget:1:{run}"


@dataclass(eq=False, slots=True)
class _Waiter:
    amount: int
    first: bool
    """Whether it asks for the first sample of a judgement, which the soft mark lets through."""
    granted: bool = False
    answered: bool = False
    """Whether an exchange that spoke of it has ended since it looked."""


@dataclass(slots=True)
class _Books:
    """What one worker holds and owes, in nano-dollars."""

    held: int = 0
    """Reserved for calls under way."""
    spare: int = 0
    """Reserved ahead."""
    spare_until_s: float = 0.0
    unreported: int = 0
    """Spent since the last exchange."""
    unrecorded: int = 0
    """Spent, and not on record yet."""
    waiting: list[_Waiter] = field(default_factory=list)


class RunBudget:
    """One worker process's access to the budget of one run.

    Args:
        redis: Client made by `shared.connect`.
        holder: Unique among all processes of all hosts.
        recorded_usd: Reads from the record what the run has spent.
        call_s: Longest time that one call may take, in seconds.
        keep_s: How long Redis remembers a run after its last call, in seconds.
    """

    def __init__(
        self,
        redis: Redis,
        run: str,
        budget: Budget,
        *,
        holder: str,
        recorded_usd: Callable[[], float],
        call_s: float,
        keep_s: float,
    ) -> None:
        self._key = budget_key(run)
        self._limit = round(budget.usd * NANO)
        self._soft = round(budget.usd * budget.soft_fraction * NANO)
        self._constant = {
            # Two budgets of one run are two holders of one sum.
            "holder": f"{holder}:{self._limit}:{self._soft}",
            "limit": self._limit,
            "soft": self._soft,
            "lease": int((call_s + SPARE_S + MARGIN_S) * 1000),
            "keep": int(keep_s * 1000),
        }
        self._recorded_usd = recorded_usd
        self._script = load_script(redis, __package__, "budget")
        self._outage = Outage(f"calls of run {run!r} wait, since its budget is kept there")
        self._books = _Books()
        self._born = ""
        self._spent = 0
        self._lock = threading.Lock()
        self._exchanging = threading.Lock()

    def reserve(self, usd: float, *, first: bool, deadline: float) -> Refusal | None:
        """Reserve the cost of a call, or say why it may not begin; `settle` must follow.

        Args:
            usd: What the call may cost at most, as estimated.
            first: Whether it is the first sample of its judgement.
            deadline: Epoch seconds.
        """
        waiter = _Waiter(_nano(usd), first)
        with self._lock:
            if self._past_soft_mark(waiter):
                return "soft"
            if self._take_spare(waiter.amount):
                return None
            self._books.waiting.append(waiter)
        try:
            refusal = self._wait(waiter, deadline)
        finally:
            with self._lock:
                if not waiter.granted:
                    self._books.waiting.remove(waiter)
        return None if waiter.granted else refusal

    def _wait(self, waiter: _Waiter, deadline: float) -> Refusal | None:
        while not waiter.granted:
            # One at a time: those that come meanwhile share the next exchange.
            with self._exchanging:
                if not waiter.answered:
                    self._exchange()
            if waiter.granted:
                break
            if waiter.answered and self._spent + waiter.amount > self._limit:
                return "hard"
            if waiter.answered and self._past_soft_mark(waiter):
                return "soft"
            if time.time() + POLL_S >= deadline:
                return "expired"
            time.sleep(POLL_S)
            waiter.answered = False
        return None

    def settle(self, reserved_usd: float, spent_usd: float) -> None:
        """End a call: of what was reserved for it, `spent_usd` was spent."""
        reserved, spent = _nano(reserved_usd), _nano(spent_usd)
        with self._lock:
            books = self._books
            books.held -= reserved
            books.unreported += spent
            books.unrecorded += spent
            # Redis counts it as held until the next exchange, so the rest may be used again.
            books.spare += reserved - spent
            tight = self._spent + books.unreported >= self._soft
        if tight:
            self.report()

    def report(self) -> None:
        """Tell what was spent, and hand back what is reserved ahead."""
        with self._exchanging:
            self._exchange(leave=True)

    def recorded(self, usd: float) -> None:
        """Note that what was spent is on record now."""
        with self._lock:
            self._books.unrecorded -= _nano(usd)

    def _past_soft_mark(self, waiter: _Waiter) -> bool:
        return not waiter.first and self._spent >= self._soft

    def _take_spare(self, amount: int) -> bool:
        books = self._books
        if books.spare < amount or time.monotonic() > books.spare_until_s:
            return False
        books.spare -= amount
        books.held += amount
        return True

    def _exchange(self, *, leave: bool = False) -> None:
        """Report and ask; where Redis cannot be reached, nobody is answered."""
        seed = -1
        while True:
            with self._lock:
                asked, ask = self._ask(seed, leave)
            try:
                reply = json.loads(self._script(keys=[self._key], args=[json.dumps(ask)]))
            except RedisError as error:
                # If the script ran, what was spent is reported twice: never too little.
                self._outage.begin(error)
                return
            self._outage.end()
            with self._lock:
                if "born" in reply:
                    self._take(asked, ask, reply)
                    return
                # Redis has lost its state: what is not on record yet is reported in full.
                self._born, self._books.unreported = "", self._books.unrecorded
            if "unseeded" in reply:
                seed = _nano(self._recorded_usd())

    def _ask(self, seed: int, leave: bool) -> tuple[list[_Waiter], dict[str, Any]]:
        books = self._books
        books.spare, books.spare_until_s = 0, time.monotonic() + SPARE_S
        waiting = list(books.waiting)
        amounts = [waiter.amount for waiter in waiting]
        return waiting, self._constant | {
            "seed": seed,
            "born": self._born,
            "spent": books.unreported,
            "held": books.held,
            "waiting": amounts,
            "ahead": 0 if leave else AHEAD_CALLS * max(amounts, default=0),
        }

    def _take(self, asked: list[_Waiter], ask: dict[str, Any], reply: dict[str, Any]) -> None:
        books = self._books
        self._born, self._spent = reply["born"], reply["spent"]
        books.unreported -= ask["spent"]
        books.spare += reply["spare"] + sum(waiter.amount for waiter in asked[: reply["granted"]])
        for waiter in list(books.waiting):
            waiter.answered = waiter.answered or waiter in asked
            if not self._past_soft_mark(waiter) and self._take_spare(waiter.amount):
                waiter.granted = True
                books.waiting.remove(waiter)


def _nano(usd: float) -> int:
    return round(usd * NANO)
