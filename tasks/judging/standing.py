"""What a worker knows of an endpoint's shared limits, and for how long; pure, times are arguments."""

import time
from dataclasses import dataclass, field
from typing import Any

LEASE_TRUST = 0.9
"""Part of a lease that its holder relies on; the rest covers a stalled thread."""


@dataclass(slots=True, kw_only=True)
class Standing:
    """The last exchange with Redis, as one worker sees it. Times are of the monotonic clock."""

    lease_s: float
    share: float
    """Part of a limit used alone while the number of workers was never known."""
    born: int = 0
    """Names the state in Redis; 0 before the first answer."""
    workers: int = 0
    """Workers last seen alive; 0 before the first answer."""
    held: int = 0
    """Slots that Redis counts as this worker's."""
    target: int = 0
    """Slots that would be its fair share."""
    lease_until_s: float = 0.0
    recovering_until_s: float = 0.0
    cool_until_s: float = 0.0
    frees_s: float = 0.0
    """When the oldest charge leaves a window."""
    all_in_use: int = 0
    """Most calls lately in flight, over all workers."""
    clock_s: float = field(default_factory=lambda: time.time() - time.monotonic())
    """Redis time minus the monotonic clock."""

    def begin(self, now_s: float) -> None:
        """Hold nothing until the first answer, or until it is long overdue."""
        self.lease_until_s = now_s + self.lease_s

    def alone(self, now_s: float) -> bool:
        """Whether this worker keeps to its share: its lease is over, or Redis lost its state."""
        return now_s >= self.lease_until_s or self.recovering(now_s)

    def recovering(self, now_s: float) -> bool:
        """Whether others may still have to report to a Redis that lost its state."""
        return now_s < self.recovering_until_s

    def own(self, limit: int) -> int:
        """Return this worker's share of a limit, used when alone; never nothing."""
        return max(1, limit // self.workers if self.workers else int(limit * self.share))

    def slots(self, now_s: float, limit: int) -> int:
        """Return how many calls may be in flight now; none in a cool-down."""
        if now_s < self.cool_until_s:
            return 0
        return self.own(limit) if self.alone(now_s) else min(self.held, self.target)

    def settle(self, now_s: float, in_use: int) -> int:
        """Give slots above the target up; return those still held, to be reported."""
        kept = 0 if self.alone(now_s) else min(self.held, self.target)
        self.held = max(in_use, kept)
        return self.held

    def cool(self, until_s: float) -> None:
        """Let nobody call before `until_s`."""
        self.cool_until_s = max(self.cool_until_s, until_s)

    def take(self, reply: dict[str, Any], *, held: int, sent_s: float, now_s: float) -> bool:
        """Take in an answer of `lease.lua` to what was sent at `sent_s`, when `held` was reported.

        Returns:
            False when Redis had lost its state: everything must be reported anew, and for one
            lease, while the others do the same, this worker keeps to its share.
        """
        self.clock_s = reply["now"] / 1000 - (sent_s + now_s) / 2
        self.born = reply["born"]
        if reply.get("lost"):
            self.recovering_until_s = sent_s + self.lease_s
            return False
        self.lease_until_s = sent_s + self.lease_s * LEASE_TRUST
        self.held, self.target = held + reply["growth"], reply["target"]
        known = self.workers if self.recovering(now_s) else 0
        self.workers = max(known, reply["workers"])
        self.all_in_use = reply["in_use"]
        self.cool(sent_s + reply["cool"] / 1000)
        self.frees_s = sent_s + reply["frees"] / 1000
        return True
