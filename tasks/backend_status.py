"""What a backend does at one moment: queues, batches, endpoints, budgets; pure.

`backend_reading` reads the state from Redis; here it is turned into numbers.
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from oyer.protocol.batch import Manifest
from oyer.protocol.batch_store import ENDS
from oyer.protocol.errors import MessageRefused
from oyer.tasks.coordination.adaptive import Control
from oyer.tasks.coordination.budget import NANO

_BUCKETS_PER_MINUTE = 120
"""Slices that a minute is counted in (`account.Limits.bucket_s`)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class QueueStatus:
    """One queue and the workers on it."""

    name: str
    waiting: int
    """Messages that no worker has taken."""
    taken: int
    """Messages that workers have taken and not acknowledged."""
    workers: tuple[str, ...]
    """`host:pid` of each process that has announced itself in the last 15 s."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchStatus:
    """One batch under way."""

    id: str
    run: str
    step: int | None
    state: str
    """`no verdict yet`; `judging`; `judged`: all verdicts are there, and the length terms
    or the rewards are not; `cancelled` or `failed`: ended before its time."""
    rollouts: int
    judged: int
    """Verdicts reached."""
    verdicts: int
    """Verdicts to reach: rollouts times judges."""
    age_s: float
    """Since it was submitted."""
    left_s: float
    """Until its deadline; negative once that has passed."""
    submissions: int


@dataclass(frozen=True, kw_only=True, slots=True)
class CallerStatus:
    """One worker process that calls an endpoint."""

    worker: str
    in_flight: int
    waiting: int


@dataclass(frozen=True, kw_only=True, slots=True)
class EndpointStatus:
    """An endpoint's calls against its limits, over all workers; as of each worker's last report.

    Workers report every 0.05 to 0.25 s while calls wait, and every 1.7 s otherwise.
    """

    name: str
    in_flight: int
    """Most calls under way at once since the last reports."""
    waiting: int
    """Calls that wait for a permit."""
    max_in_flight: int | None
    """As the workers configure it; None where no worker has called the endpoint lately."""
    adaptive_limit: int | None
    """Calls in flight that the endpoint was found to bear; None where `adaptive` is off."""
    requests: int | None
    """Requests begun in the last minute; None where they are not limited, and so not counted."""
    requests_per_minute: int | None
    tokens: int | None
    """Tokens of the last minute's calls; None where they are not limited, and so not counted."""
    tokens_per_minute: int | None
    cool_s: float
    """How long nobody calls because of a Retry-After."""
    callers: tuple[CallerStatus, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class RunStatus:
    """The money of a run with a batch under way."""

    run: str
    spent_usd: float | None
    """By calls that have ended; None where Redis does not count it: the run has no budget, or no
    call was made for it lately."""
    reserved_usd: float
    """Reserved for calls under way, and for the next ones."""
    budget_usd: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class BackendStatus:
    """What a backend does at one moment."""

    at_s: float
    """Epoch seconds, by the clock of Redis."""
    queues: tuple[QueueStatus, ...]
    batches: tuple[BatchStatus, ...]
    """Oldest first."""
    backlog_bytes: int
    """Payloads of the batches under way and of incomplete groups."""
    open_groups: int
    """Groups of which rollouts are missing."""
    endpoints: tuple[EndpointStatus, ...]
    runs: tuple[RunStatus, ...]


def batch_status(manifest: Manifest, judged: int, ended: bytes | None, now_s: float) -> BatchStatus:
    """Describe a batch under way.

    Args:
        judged: verdicts reached.
        ended: how it was ended before its time, as `Exchange.end` wrote it.
        now_s: epoch seconds, by the clock of Redis.
    """
    verdicts = manifest.size * len(manifest.plan["judges"])
    if ended is not None:
        state = json.loads(ended)[0]
        if state not in ENDS:
            raise MessageRefused(f"batch {manifest.batch_id}: cannot have ended as {state!r:.40}")
    elif judged >= verdicts:
        state = "judged"
    else:
        state = "judging" if judged else "no verdict yet"
    return BatchStatus(
        id=manifest.batch_id,
        run=manifest.run,
        step=manifest.step,
        state=state,
        rollouts=manifest.size,
        judged=judged,
        verdicts=verdicts,
        age_s=now_s - manifest.submitted_at,
        left_s=manifest.deadline - now_s,
        submissions=manifest.submission,
    )


def endpoint_status(name: str, state: Mapping[bytes, bytes], now_s: float) -> EndpointStatus:
    """Read an endpoint's shared limits, as `limiter.lua` keeps them.

    Args:
        state: the hash; empty where no worker has called the endpoint lately.
        now_s: epoch seconds, by the clock of Redis.
    """
    now_ms = now_s * 1000
    limits = [int(number) for number in state.get(b"limits", b"").split()]
    max_in_flight, requests_limit, tokens_limit, bucket_ms = limits or [0, 0, 0, 1]
    oldest = now_ms // bucket_ms - _BUCKETS_PER_MINUTE
    used = Counter({"q": 0, "t": 0})
    callers = []
    for field, value in state.items():
        kind, _, rest = field.decode().partition(":")
        if kind in used and int(rest) > oldest:
            used[kind] += int(value)
        elif kind == "w":
            _, in_flight, wanted, expires_ms = map(int, value.split())
            if expires_ms > now_ms:
                waiting = max(0, wanted - in_flight)
                callers.append(CallerStatus(worker=rest, in_flight=in_flight, waiting=waiting))
    control = state.get(b"control")
    return EndpointStatus(
        name=name,
        in_flight=sum(caller.in_flight for caller in callers),
        waiting=sum(caller.waiting for caller in callers),
        max_in_flight=max_in_flight or None,
        adaptive_limit=None if control is None else Control.decode(control.decode()).limit,
        requests=used["q"] if requests_limit else None,
        requests_per_minute=requests_limit or None,
        tokens=used["t"] if tokens_limit else None,
        tokens_per_minute=tokens_limit or None,
        cool_s=max(0.0, (float(state.get(b"cool", 0)) - now_ms) / 1000),
        callers=tuple(sorted(callers, key=lambda caller: caller.worker)),
    )


def run_status(
    run: str, budget_usd: float | None, state: Mapping[bytes, bytes], now_s: float
) -> RunStatus:
    """Read a run's money, as `budget.lua` keeps it.

    Args:
        state: the hash; empty where Redis does not count what the run spends.
        now_s: epoch seconds, by the clock of Redis.
    """
    reserved = 0
    for field, value in state.items():
        if field.startswith(b"h:"):
            held, expires_ms = map(int, value.split())
            reserved += held if expires_ms > now_s * 1000 else 0
    spent = state.get(b"spent")
    return RunStatus(
        run=run,
        spent_usd=None if spent is None else int(spent) / NANO,
        reserved_usd=reserved / NANO,
        budget_usd=budget_usd,
    )
