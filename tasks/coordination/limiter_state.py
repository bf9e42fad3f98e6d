"""One worker's side of an endpoint's shared limits: what it holds, may start and reports.

Pure: no clock, no lock, no I/O. Times are seconds of one monotonic clock, given by the caller.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from oyer.tasks.coordination.adaptive import Control, Evidence, initial, step
from oyer.tasks.coordination.token_windows import TokenWindows

TRUSTED_PART = 0.9
"""Part of `worker_ttl_s` in which a worker relies on its slots; the rest covers a stalled thread."""
MAX_COOL_S = 120.0
"""Longest Retry-After that is respected, in seconds (openai-python)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """An endpoint's limits over all workers; equal on every worker."""

    max_in_flight: int
    requests: int
    """Calls begun in a window; 0 for no limit."""
    tokens: int
    """Tokens of the calls begun in a window; 0 for no limit."""
    adaptive: bool
    share: float
    """Part of the limits that a worker uses alone before it has ever reached Redis."""
    window_s: float
    worker_ttl_s: float
    """A worker that does not report for this long loses its slots."""
    delay_s: float
    """Longest time from a permit to the call's arrival at the endpoint."""

    @property
    def use_s(self) -> float:
        """How long a granted block may be used."""
        return self.window_s / 40

    @property
    def bucket_s(self) -> float:
        """Length of the time slices in which windows are counted."""
        return self.window_s / 120

    @property
    def counted_s(self) -> float:
        """How long a grant is charged: its call may arrive as late as `use_s + delay_s` after it."""
        return self.window_s + self.use_s + self.delay_s


@dataclass(frozen=True, slots=True)
class Permit:
    """Permission to make one call."""

    bucket: int
    """Time slice that the call is charged to."""
    tokens: int
    """Tokens charged for it."""
    flow: str = ""
    """Whose call it is, see `fair_queue.Flow`."""


@dataclass(slots=True)
class _Demand:
    """What calls needed and reported since the last exchange."""

    wanted: int = 0
    """Most calls in flight and waiting at once."""
    peak: int = 0
    """Most calls in flight at once."""
    begun: int = 0
    begun_tokens: int = 0
    cool_s: float = 0.0
    """Longest Retry-After."""
    evidence: Evidence = field(default_factory=Evidence)


class LimiterState:
    """One worker's side of `limiter.lua`; see docs/internals/limiter.md.

    Args:
        worker: Unique among all processes of all hosts.
        clock_s: Epoch time minus the monotonic clock; replaced by Redis's time once that is known.
    """

    def __init__(self, limits: Limits, worker: str, clock_s: float) -> None:
        self.in_use = 0
        self.cool_until_s = 0.0
        self.frees_s = 0.0
        """When the oldest charge leaves a window."""
        self.shares: dict[str, int] = {}
        """This worker's fair slots of each flow, as of the last exchange."""
        self._limits = limits
        self._constant = {
            "worker": worker,
            "ttl": int(limits.worker_ttl_s * 1000),
            "window": int(limits.counted_s * 1000),
            "bucket": int(limits.bucket_s * 1000),
            "max_cool": int(MAX_COOL_S * 1000),
            "max_in_flight": limits.max_in_flight,
            "requests_limit": limits.requests,
            "tokens_limit": limits.tokens,
            "adaptive": limits.adaptive,
        }
        self._clock_s = clock_s
        self._windows = TokenWindows()
        self._demand, self._sent = _Demand(), _Demand()
        self._changes: list[tuple[str, int, int]] = []
        self._born = ""
        self.workers = self._held = self._target = self._ahead = self._all_in_use = 0
        self._short = False
        self._slots_until_s = self._recovering_until_s = 0.0
        self._control = initial(limits.max_in_flight)
        # The adaptive state as last read from Redis, and as last proposed to it.
        self._stored = self._proposed = ""

    def open(self, now_s: float) -> None:
        """Start without slots: wait up to `worker_ttl_s` for the first answer before working alone."""
        self._slots_until_s = now_s + self._limits.worker_ttl_s

    def alone(self, now_s: float) -> bool:
        """Whether this worker keeps to its own share: its slots expired, or Redis lost its state."""
        return now_s >= self._slots_until_s or now_s < self._recovering_until_s

    def idle(self, now_s: float) -> bool:
        """Whether slots or windows are held that no call here uses."""
        return self._held > self.in_use or any(self._windows.balance(now_s))

    def holds_wanted_slots(self) -> bool:
        """Whether slots are held that no call here uses, while calls of other workers may wait."""
        return self._short and self._held > self.in_use

    def room(self, now_s: float) -> bool:
        """Whether a slot may be free, here or, as of the last exchange, among all workers."""
        if now_s < self.cool_until_s:
            return False
        if self.in_use < self._slots(now_s):
            return True
        limits = self._limits
        limit = self._control.limit if limits.adaptive else limits.max_in_flight
        return not self.alone(now_s) and self._all_in_use < limit

    def want(self, waiting: int) -> None:
        """Note how many calls wait."""
        self._demand.wanted = max(self._demand.wanted, self.in_use + waiting)

    def begin(self, now_s: float, tokens: int, flow: str = "") -> Permit | None:
        """Begin a call of an estimated number of tokens, if slots and windows allow one now."""
        if now_s < self.cool_until_s or self.in_use >= self._slots(now_s):
            return None
        pay = self._pay_alone if self.alone(now_s) else self._pay
        permit = pay(now_s, tokens, flow)
        if permit is not None:
            self.in_use += 1
            self._demand.begun += 1
            self._demand.begun_tokens += permit.tokens
            self._demand.peak = max(self._demand.peak, self.in_use)
        return permit

    def end(
        self,
        now_s: float,
        permit: Permit,
        used_tokens: int | None,
        evidence: Evidence,
        cool_s: float,
    ) -> None:
        """End a call; see `Limiter.release`."""
        self.in_use -= 1
        if self._limits.tokens and used_tokens is not None:
            over = used_tokens - permit.tokens
            # Unused tokens return to the slice they were charged to; over-use is charged now.
            self._windows.charge(self._bucket(now_s) if over > 0 else permit.bucket, 0, over)
        self._demand.evidence += evidence
        if cool_s > 0:
            cool_s = min(cool_s, MAX_COOL_S)
            self._demand.cool_s = max(self._demand.cool_s, cool_s)
            self.cool_until_s = max(self.cool_until_s, now_s + cool_s)

    def ask(
        self,
        now_s: float,
        waiting: Sequence[int],
        *,
        flows: Sequence[tuple[str, float, int]] | None = None,
        leave: bool = False,
    ) -> dict[str, Any]:
        """Return the request to `limiter.lua`; call `take` or `fail` with its outcome.

        Args:
            waiting: Estimated tokens of the waiting calls, the next one first.
            flows: As `FairQueue.demand` returns them; None counts all calls as one flow.
            leave: Return all slots and grants; no further exchange may follow.
        """
        limits, demand = self._limits, self._sent_demand(now_s, len(waiting))
        waiting = [min(tokens, limits.tokens) for tokens in waiting]
        recovering = now_s < self._recovering_until_s
        wanted = self.in_use if recovering else demand.wanted
        requests, tokens = self._windows.balance(float("inf") if leave else now_s)
        self._windows.total(self._oldest(now_s))
        self._changes = self._windows.changes()
        self._proposed = self._step(demand.evidence, now_s).encode() if limits.adaptive else ""
        # Halved, not reset: little may have begun only because the last exchange was recent.
        self._ahead = max(demand.begun, self._ahead // 2)
        costs, calls = sum(waiting) + demand.begun_tokens, len(waiting) + demand.begun
        return self._constant | {
            "leave": leave,
            "born": self._born,
            "control_was": self._stored,
            "control_now": self._proposed,
            "changes": self._changes,
            "cool": int(demand.cool_s * 1000),
            "held": self._held,
            "peak": demand.peak,
            "wanted": wanted,
            "runs": [("", 1.0, wanted)] if flows is None or recovering else flows,
            "free": self._held - self.in_use,
            "waiting": 0 if recovering else len(waiting),
            "ahead": 0 if recovering else self._ahead,
            "head": waiting[0] if waiting else 0,
            "mean": max(1, -(-costs // max(1, calls))),
            "requests": requests,
            "tokens": tokens,
        }

    def _sent_demand(self, now_s: float, waiting: int) -> _Demand:
        """Return what was needed since the last request, and the slots above it."""
        self._sent, self._demand = self._demand, _Demand(self.in_use + waiting, self.in_use)
        kept = 0 if self.alone(now_s) else min(self._held, self._target, self._sent.wanted)
        self._held = max(self.in_use, kept)
        return self._sent

    def take(self, reply: dict[str, Any], sent_s: float, now_s: float) -> bool:
        """Apply the answer to a request sent at `sent_s`; returns whether it granted anything."""
        self._clock_s = reply["now"] / 1000 - (sent_s + now_s) / 2
        self._born = reply["born"]
        if reply.get("lost"):
            # Until the others have reported what they hold, keep to this worker's own share.
            self._recovering_until_s = sent_s + self._limits.worker_ttl_s
            self._windows.restate()
            self._stored = ""
            self._restore_demand()
            return False
        self._slots_until_s = sent_s + self._limits.worker_ttl_s * TRUSTED_PART
        self._held, self._target = self._held + reply["growth"], reply["target"]
        self.shares = reply["shares"]
        known = self.workers if now_s < self._recovering_until_s else 0
        self.workers = max(known, reply["workers"])
        self._all_in_use, self._short = reply["in_use"], reply["short"]
        self.cool_until_s = max(self.cool_until_s, sent_s + reply["cool"] / 1000)
        self.frees_s = sent_s + reply["frees"] / 1000
        self._windows.confirm(self._changes)
        granted = reply["requests"], reply["tokens"]
        if any(granted):
            self._windows.grant(reply["bucket"], sent_s + self._limits.use_s, *granted)
        self._stored = reply["control"]
        if self._stored:
            self._control = Control.decode(self._stored)
        if self._stored != self._proposed:
            # Another worker changed the state first: apply the same evidence to the new state.
            self._demand.evidence += self._sent.evidence
        return bool(reply["growth"] or any(granted))

    def fail(self) -> None:
        """Record that the last request may or may not have been carried out."""
        self._windows.doubt(self._changes)
        self._restore_demand()

    def _restore_demand(self) -> None:
        self._demand.evidence += self._sent.evidence
        self._demand.cool_s = max(self._demand.cool_s, self._sent.cool_s)

    def _slots(self, now_s: float) -> int:
        if not self.alone(now_s):
            return min(self._held, self._target)
        limits = self._limits
        return self._own(self._control.limit if limits.adaptive else limits.max_in_flight)

    def _own(self, limit: int) -> int:
        """Return this worker's share of a limit; at least 1."""
        return max(1, limit // self.workers if self.workers else int(limit * self._limits.share))

    def _bucket(self, at_s: float) -> int:
        return int((at_s + self._clock_s) / self._limits.bucket_s)

    def _oldest(self, now_s: float) -> int:
        return self._bucket(now_s - self._limits.counted_s)

    def _pay(self, now_s: float, tokens: int, flow: str) -> Permit | None:
        tokens = min(tokens, self._limits.tokens)
        bucket = self._windows.spend(now_s, min(1, self._limits.requests), tokens)
        return None if bucket is None else Permit(bucket, tokens, flow)

    def _pay_alone(self, now_s: float, tokens: int, flow: str) -> Permit | None:
        """Charge a call to this worker's share of the windows, without a grant."""
        own_requests, own_tokens = self._own(self._limits.requests), self._own(self._limits.tokens)
        requests = min(1, self._limits.requests)
        tokens = min(tokens, self._limits.tokens, own_tokens)
        spent_requests, spent_tokens = self._windows.total(self._oldest(now_s))
        if requests and spent_requests + requests > own_requests:
            return None
        if tokens and spent_tokens + tokens > own_tokens:
            return None
        bucket = self._bucket(now_s)
        self._windows.charge(bucket, requests, tokens)
        return Permit(bucket, tokens, flow)

    def _step(self, seen: Evidence, now_s: float) -> Control:
        """Return the adaptive state that is to replace the one last read."""
        return step(
            self._control,
            seen,
            in_use=self._all_in_use,
            now_s=now_s + self._clock_s,
            max_limit=self._limits.max_in_flight,
        )
