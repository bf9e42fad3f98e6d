"""Prints batches, and converts them to JSON values."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from oyer.cli.support.output import console, counted, fits, print_table

if TYPE_CHECKING:
    from oyer.models.rows import StoredBatch


_SENT = {
    "sent (UTC)": "sent_at",
    "from": "host",
    "why": "why",
    "begun (UTC)": "seen_at",
    "by worker": "worker",
}
_WORK = {
    "judged by": "worker",
    "judgements": "judgements",
    "first began (UTC)": "first_at",
    "last ended (UTC)": "last_at",
}


def plain(value: Any) -> Any:
    """Convert a value to JSON values: times become text."""
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list) else value


def print_overview(states: "Sequence[StoredBatch]") -> None:
    """Print one line per batch, or two on a narrow terminal."""
    table = _table(
        ("batch", "run", "step", "status", "rollouts", "judgements", "sent", "submitted (UTC)"),
        [
            (
                state["id"],
                state["run"],
                state["step"],
                state["status"],
                state["size"],
                _counted(state["counts"]),
                state["submissions"],
                state["submitted_at"],
            )
            for state in states
        ],
    )
    if fits(table):
        print_table(table)
        return
    for state in states:
        step = "" if state["step"] is None else f", step {state['step']}"
        console.print(f"{state['id']}  {state['status']}", highlight=False, soft_wrap=True)
        console.print(
            f"    {state['run']}{step}; {counted(state['size'], 'rollout')}:"
            f" {_counted(state['counts']) or '–'}; {_sendings(state)}",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )


def show(shown: Mapping[str, Any]) -> None:
    """Print one batch with its submissions and workers."""
    usage = shown["usage"] or {}
    lines = {
        "batch": shown["id"],
        "run": shown["run"] if shown["step"] is None else f"{shown['run']}, step {shown['step']}",
        "status": shown["status"] + (f": {shown['ending']}" if shown["ending"] else ""),
        "rollouts": shown["size"],
        "submitted": _utc(shown["submitted_at"]),
        "ended": _utc(shown["finished_at"]),
        "judgements": _counted(shown["counts"]),
        "used": _used(usage),
    }
    for name, value in lines.items():
        console.print(f"[bold]{name:<11}[/] {escape(str(value))}", highlight=False, soft_wrap=True)
    for rows, titles in ((shown["sent"], _SENT), (shown["work"], _WORK)):
        if rows:
            cells = [[row[column] for column in titles.values()] for row in rows]
            print_table(_table(list(titles), cells))
    for status, error in shown["first_errors"].items():
        console.print(
            f"[bold]{escape(status)}[/] e.g. {escape(error)}", highlight=False, soft_wrap=True
        )


def _table(titles: Sequence[str], rows: Sequence[Sequence[Any]]) -> Table:
    table = Table()
    for title in titles:
        # Names and ids are folded, not truncated, so that they can be copied.
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(*(escape(_cell(value)) for value in row))
    return table


def _cell(value: Any) -> str:
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    return "" if value is None else str(value)


def _utc(value: datetime | None) -> str:
    return f"{_cell(value)} UTC" if value else ""


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{n} {status}" for status, n in sorted(counts.items()))


def _sendings(state: "StoredBatch") -> str:
    number, first = state["submissions"], _utc(state["submitted_at"])
    return f"sent once, {first}" if number == 1 else f"sent {number} times, first {first}"


def _used(usage: Mapping[str, Any]) -> str:
    if not usage:
        return ""
    prompt, completion = usage["prompt_tokens"], usage["completion_tokens"]
    return (
        f"{counted(usage['calls'], 'call')}, {prompt} prompt and {completion} completion tokens,"
        f" ${usage['cost_usd']:.4f}"
    )
