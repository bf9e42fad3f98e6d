"""Builds the tables of `oyer status`, and converts a status to JSON values."""

import dataclasses
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from oyer.cli.support.output import counted

if TYPE_CHECKING:
    from oyer.tasks.monitoring.backend_status import (
        BackendStatus,
        BatchStatus,
        EndpointStatus,
        QueueStatus,
        RunStatus,
    )

_WORKERS_NAMED = 4
"""Maximum number of workers that a table lists per queue; the others are counted."""


def plain(seen: "BackendStatus", limit: int) -> dict[str, Any]:
    """Convert a status to JSON values, with the oldest `limit` batches."""
    values = dataclasses.asdict(seen)
    values["batches"] = values["batches"][:limit]
    return {**values, "batches_under_way": len(seen.batches)}


def tables(seen: "BackendStatus", limit: int) -> list[Table]:
    """Build the non-empty tables of a status."""
    at = datetime.fromtimestamp(seen.at_s, UTC)
    made = [
        _table(
            f"queues at {at:%Y-%m-%d %H:%M:%S} UTC",
            ("queue", "waiting", "taken", "workers"),
            [_queue_cells(queue) for queue in seen.queues],
        ),
        _table(
            _batches_title(seen, limit),
            ("batch", "run", "step", "state", "rollouts", "verdicts", "age", "deadline in"),
            [_batch_cells(batch) for batch in seen.batches[:limit]],
        ),
        _table(
            "endpoints",
            ("endpoint", "in flight", "waiting", "requests a minute", "tokens a minute", "paused"),
            [_endpoint_cells(endpoint) for endpoint in seen.endpoints],
        ),
        _table(
            "runs",
            ("run", "spent", "reserved", "budget"),
            [_run_cells(run) for run in seen.runs],
        ),
    ]
    return [table for table in made if table.row_count]


def _table(title: str, columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> Table:
    table = Table(title=title, title_justify="left")
    for column in columns:
        # Names and ids are folded, not truncated, so that they can be copied.
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    return table


def _queue_cells(queue: "QueueStatus") -> tuple[str, ...]:
    named = ", ".join(queue.workers[:_WORKERS_NAMED])
    more = len(queue.workers) - _WORKERS_NAMED
    named += f" and {more} more" if more > 0 else ""
    workers = f"{len(queue.workers)}: {named}" if queue.workers else "none"
    return queue.name, str(queue.waiting), str(queue.taken), workers


def _batches_title(seen: "BackendStatus", limit: int) -> str:
    under_way = counted(len(seen.batches), "batch")
    oldest = f", the oldest {limit}" if len(seen.batches) > limit else ""
    groups = f", {counted(seen.open_groups, 'incomplete group')}" if seen.open_groups else ""
    return f"{under_way} under way{oldest}{groups}, {seen.backlog_bytes / 2**20:.1f} MiB in Redis"


def _batch_cells(batch: "BatchStatus") -> tuple[str, ...]:
    part = f" ({batch.judged / batch.verdicts:.0%})" if batch.verdicts else ""
    again = f", sent {batch.submissions} times" if batch.submissions > 1 else ""
    return (
        batch.id,
        batch.run,
        "" if batch.step is None else str(batch.step),
        batch.state + again,
        str(batch.rollouts),
        f"{batch.judged} of {batch.verdicts}{part}",
        _time(batch.age_s),
        _time(batch.left_s) if batch.left_s > 0 else "passed",
    )


def _endpoint_cells(endpoint: "EndpointStatus") -> tuple[str, ...]:
    if endpoint.max_in_flight is None:
        return endpoint.name, "no calls lately", "", "", "", ""
    bound = str(endpoint.max_in_flight)
    if endpoint.adaptive_limit is not None:
        bound = f"{endpoint.adaptive_limit} (adaptive, up to {endpoint.max_in_flight})"
    return (
        endpoint.name,
        f"{endpoint.in_flight} of {bound}",
        _waiting(endpoint),
        _against(endpoint.requests, endpoint.requests_per_minute),
        _against(endpoint.tokens, endpoint.tokens_per_minute),
        f"{endpoint.cool_s:.0f} s (Retry-After)" if endpoint.cool_s else "no",
    )


def _waiting(endpoint: "EndpointStatus") -> str:
    waiting = sum(caller.waiting > 0 for caller in endpoint.callers)
    if not waiting:
        return "0"
    return f"{endpoint.waiting}, in {counted(waiting, 'worker')}"


def _against(used: int | None, limit: int | None) -> str:
    return "no limit" if limit is None else f"{used} of {limit}"


def _run_cells(run: "RunStatus") -> tuple[str, ...]:
    spent = "?" if run.spent_usd is None else f"${run.spent_usd:.4f}"
    if run.budget_usd is None:
        return run.run, spent, "", "no budget"
    return run.run, spent, f"${run.reserved_usd:.4f}", f"${run.budget_usd:g}"


def _time(seconds: float) -> str:
    """Format a duration in its two largest units, e.g. "1 h 5 min"."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
