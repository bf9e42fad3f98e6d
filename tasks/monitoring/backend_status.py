"""The status of a backend: queues, batches, endpoints, budgets; pure.

`status_reader` reads the state from Redis; this module converts it to numbers.
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
"""Time buckets per minute of the limiter (`Limits.bucket_s`)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class QueueStatus:
    """One queue and its workers."""

    name: str
    waiting: int
    """Messages in the queue."""
    taken: int
    """Messages that workers took and have not acknowledged."""
    workers: tuple[str, ...]
    """`host:pid` of each process with a heartbeat in the last 15 s."""
    record_wait_s: float = 0.0
    """How long one of them has waited for a read or write of the record, the longest; reported every 5 s."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchStatus:
    """One batch in flight."""

    id: str
    run: str
    step: int | None
    state: str
    """`no verdict yet`; `judging`; `judged`: all verdicts exist, length terms or rewards are
    missing; `cancelled` or `failed`: ended early."""
    rollouts: int
    judged: int
    """Verdicts so far."""
    verdicts: int
    """All verdicts of the batch: rollouts times judges."""
    age_s: float
    """Time since it was submitted."""
    left_s: float
    """Time until its deadline; negative after it."""
    submissions: int


@dataclass(frozen=True, kw_only=True, slots=True)
class CallerStatus:
    """One worker process that calls an endpoint."""

    worker: str
    in_flight: int
    waiting: int


@dataclass(frozen=True, kw_only=True, slots=True)
class EndpointStatus:
    """An endpoint's calls and limits over all workers, as of each worker's last report.

    Workers report every 0.05 to 0.25 s while calls wait, and every 1.7 s otherwise.
    """

    name: str
    in_flight: int
    """Maximum concurrent calls since the last reports."""
    waiting: int
    """Calls that wait for a permit."""
    max_in_flight: int | None
    """From the workers' configuration; None if no worker called the endpoint recently."""
    adaptive_limit: int | None
    """Current adaptive limit of calls in flight; None if `adaptive` is off."""
    requests: int | None
    """Requests started in the last minute; None if they are not limited and so not counted."""
    requests_per_minute: int | None
    tokens: int | None
    """Tokens of the last minute's calls; None if they are not limited and so not counted."""
    tokens_per_minute: int | None
    cool_s: float
    """Remaining pause of all calls after a Retry-After."""
    callers: tuple[CallerStatus, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class RunStatus:
    """Spending of a run with a batch in flight."""

    run: str
    spent_usd: float | None
    """Cost of finished calls; None if Redis does not count it: the run has no budget, or made no
    call recently."""
    reserved_usd: float
    """Reserved for current and next calls."""
    budget_usd: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class BackendStatus:
    """The status of a backend at one time."""

    at_s: float
    """Epoch seconds, by the clock of Redis."""
    queues: tuple[QueueStatus, ...]
    batches: tuple[BatchStatus, ...]
    """Oldest first."""
    backlog_bytes: int
    """Payload bytes of batches in flight and of incomplete groups."""
    open_groups: int
    """Incomplete groups."""
    endpoints: tuple[EndpointStatus, ...]
    runs: tuple[RunStatus, ...]


def batch_status(manifest: Manifest, judged: int, ended: bytes | None, now_s: float) -> BatchStatus:
    """Return the status of a batch in flight.

    Args:
        judged: verdicts so far.
        ended: the value that `BatchStore.end` wrote, if the batch ended early.
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
    """Return the status of an endpoint from the limiter's state in Redis (`limiter.lua`).

    Args:
        state: the hash; empty if no worker called the endpoint recently.
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
    """Return the spending of a run from its budget in Redis (`budget.lua`).

    Args:
        state: the hash; empty if Redis does not count the run's spending.
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
