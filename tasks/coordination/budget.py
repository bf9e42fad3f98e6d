"""A run's budget: its cost is reserved before each call and settled after it, over all workers.

- Redis holds what is spent and reserved. If Redis loses it, the sum is rebuilt from the SQL record
  and from what each worker has spent that is not on record yet.
- Far from the limit a worker reserves for several calls ahead, so that most need no round trip.
- A call waits while only reservations block it, because most calls cost less than reserved.
- Without Redis nothing can be reserved: calls wait for it, up to their batch's deadline.
"""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from redis import Redis, RedisError

from oyer.config.reward import Budget
from oyer.protocol.redis_client import Outage, load_script

AHEAD_CALLS = 32
"""Number of calls to reserve for ahead of time."""
SPARE_S = 10.0
"""How long a reservation made ahead may be used, in seconds."""
MARGIN_S = 20.0
"""Redis keeps a reservation this much longer than its call may last, in seconds."""
POLL_S = 0.1
"""Pause before asking again while reservations of others block a call, in seconds."""

NANO = 1_000_000_000
"""Nano-dollars per dollar."""

Refusal = Literal["soft", "hard", "expired"]
"""Why a call may not begin: past the soft mark, past the limit, past the deadline."""


def budget_key(run: str) -> str:
    """Redis key of what a run has spent and reserved."""
    return f"oyer:budget:1:{run}"


@dataclass(eq=False, slots=True)
class _PendingReservation:
    amount: int
    first_sample: bool
    """Whether the call is for a judgement's first sample, which the soft mark lets pass."""
    granted: bool = False
    answered: bool = False
    """Whether a Redis round trip that included this request has completed."""


@dataclass(slots=True)
class Reservation:
    """A call's share of the budget while the call is made."""

    refusal: Refusal | None = None
    """Set if the call may not begin; nothing is reserved then."""
    spent_usd: float = 0.0
    """What the call cost; the rest of the reservation becomes available again."""


@dataclass(slots=True)
class _Amounts:
    """What one worker has reserved and spent, in nano-dollars."""

    held: int = 0
    """Reserved for calls in flight."""
    spare: int = 0
    """Reserved ahead."""
    spare_until_s: float = 0.0
    unreported: int = 0
    """Spent since the last exchange."""
    unrecorded: int = 0
    """Spent, and not on record yet."""
    pending: list[_PendingReservation] = field(default_factory=list)


class RunBudget:
    """One worker process's access to the budget of one run.

    Args:
        redis: Client made by `redis_connection.connect`.
        holder: Unique among all processes of all hosts.
        recorded_usd: Returns what the run has spent according to the record.
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
            # A run that is continued with another budget has another holder on the same sum.
            "holder": f"{holder}:{self._limit}:{self._soft}",
            "limit": self._limit,
            "soft": self._soft,
            "ttl": int((call_s + SPARE_S + MARGIN_S) * 1000),
            "keep": int(keep_s * 1000),
        }
        self._recorded_usd = recorded_usd
        self._script = load_script(redis, __package__, "budget")
        self._outage = Outage(f"calls of run {run!r} wait, since its budget is kept there")
        self._amounts = _Amounts()
        self._born = ""
        self._spent = 0
        self._lock = threading.Lock()
        self._exchanging = threading.Lock()

    @contextmanager
    def reservation(
        self, usd: float, *, first_sample: bool, deadline: float
    ) -> Iterator[Reservation]:
        """Hold a reservation for one call; arguments as of `reserve`."""
        reservation = Reservation(self.reserve(usd, first_sample=first_sample, deadline=deadline))
        try:
            yield reservation
        finally:
            if reservation.refusal is None:
                self.settle(usd, reservation.spent_usd)

    def reserve(self, usd: float, *, first_sample: bool, deadline: float) -> Refusal | None:
        """Reserve the cost of a call until `settle`, or return why the call may not begin.

        Waits while only reservations of other calls block it.

        Args:
            usd: Estimate of the most that the call may cost.
            first_sample: Whether the call is for the first sample of its judgement.
            deadline: Epoch seconds.
        """
        pending = _PendingReservation(_nano(usd), first_sample)
        with self._lock:
            if self._past_soft_mark(pending):
                return "soft"
            if self._take_spare(pending.amount):
                return None
            self._amounts.pending.append(pending)
        try:
            refusal = self._wait(pending, deadline)
        finally:
            with self._lock:
                if not pending.granted:
                    self._amounts.pending.remove(pending)
        return None if pending.granted else refusal

    def settle(self, reserved_usd: float, spent_usd: float) -> None:
        """End a call's reservation: `spent_usd` is spent, the rest is available again."""
        reserved, spent = _nano(reserved_usd), _nano(spent_usd)
        with self._lock:
            amounts = self._amounts
            amounts.held -= reserved
            amounts.unreported += spent
            amounts.unrecorded += spent
            # Redis counts the rest as held until the next exchange, so other calls here may use it.
            amounts.spare += reserved - spent
            tight = self._spent + amounts.unreported >= self._soft
        if tight:
            self.report()

    def report(self) -> None:
        """Report what was spent, and return what is reserved ahead."""
        with self._exchanging:
            self._exchange(leave=True)

    def recorded(self, usd: float) -> None:
        """Note that an amount spent is on record now."""
        with self._lock:
            self._amounts.unrecorded -= _nano(usd)

    def _wait(self, pending: _PendingReservation, deadline: float) -> Refusal | None:
        while not pending.granted:
            # One exchange at a time: calls that arrive during it share the next one.
            with self._exchanging:
                if not pending.answered:
                    self._exchange()
            if pending.granted:
                break
            if pending.answered and self._spent + pending.amount > self._limit:
                return "hard"
            if pending.answered and self._past_soft_mark(pending):
                return "soft"
            if time.time() + POLL_S >= deadline:
                return "expired"
            time.sleep(POLL_S)
            pending.answered = False
        return None

    def _past_soft_mark(self, pending: _PendingReservation) -> bool:
        return not pending.first_sample and self._spent >= self._soft

    def _take_spare(self, amount: int) -> bool:
        amounts = self._amounts
        if amounts.spare < amount or time.monotonic() > amounts.spare_until_s:
            return False
        amounts.spare -= amount
        amounts.held += amount
        return True

    def _exchange(self, *, leave: bool = False) -> None:
        """Report to Redis and apply its grants; without Redis every pending call keeps waiting."""
        seed = -1
        while True:
            with self._lock:
                sent, request = self._request(seed, leave)
            try:
                reply = json.loads(self._script(keys=[self._key], args=[json.dumps(request)]))
            except RedisError as error:
                # If the script ran all the same, the amount is reported twice: never too little.
                self._outage.begin(error)
                return
            self._outage.end()
            with self._lock:
                if "born" in reply:
                    self._apply(sent, request, reply)
                    return
                # Redis has lost its state: report again all that is not on record yet.
                self._born, self._amounts.unreported = "", self._amounts.unrecorded
            if "unseeded" in reply:
                seed = _nano(self._recorded_usd())

    def _request(self, seed: int, leave: bool) -> tuple[list[_PendingReservation], dict[str, Any]]:
        amounts = self._amounts
        amounts.spare, amounts.spare_until_s = 0, time.monotonic() + SPARE_S
        pending = list(amounts.pending)
        waiting = [one.amount for one in pending]
        return pending, self._constant | {
            "seed": seed,
            "born": self._born,
            "spent": amounts.unreported,
            "held": amounts.held,
            "waiting": waiting,
            "ahead": 0 if leave else AHEAD_CALLS * max(waiting, default=0),
        }

    def _apply(
        self, sent: list[_PendingReservation], request: dict[str, Any], reply: dict[str, Any]
    ) -> None:
        amounts = self._amounts
        self._born, self._spent = reply["born"], reply["spent"]
        amounts.unreported -= request["spent"]
        amounts.spare += reply["spare"] + sum(one.amount for one in sent[: reply["granted"]])
        for pending in list(amounts.pending):
            pending.answered = pending.answered or pending in sent
            if not self._past_soft_mark(pending) and self._take_spare(pending.amount):
                pending.granted = True
                amounts.pending.remove(pending)


def _nano(usd: float) -> int:
    return round(usd * NANO)
