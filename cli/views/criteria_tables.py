"""Prints the verdicts on criteria, and converts them to JSON values."""

from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from oyer.cli.support.output import console, counted, notes, print_table

if TYPE_CHECKING:
    from oyer.models.reports.criteria import CriteriaReport, CriterionStatistics

_TITLES = ("judge", "criterion", "weight", "rollouts", "missing", "mean", "met", "decides in")


def as_json(run: str, split: str, report: "CriteriaReport") -> dict[str, Any]:
    """Return a report as JSON values; `decides` is the share of groups in which values differ."""
    return {
        "run": run,
        "split": split,
        **report._asdict(),
        "criteria": [{**one, "decides": decides(one)} for one in report.criteria],
        "never_decide": [{"judge": one["judge"], "name": one["name"]} for one in _constant(report)],
    }


def show(run: str, split: str, report: "CriteriaReport") -> None:
    """Print one line per criterion, then those that decide in no group."""
    _note(_scope(run, split, report))
    if not report.criteria:
        _note("no verdicts on criteria are on record there; judges with `criteria` give them")
        return
    table = Table()
    for title in _TITLES:
        table.add_column(title, overflow="fold")
    for one in report.criteria:
        table.add_row(*map(escape, _cells(one)))
    print_table(table)
    if report.more_criteria:
        _note(f"only the first {len(report.criteria)} criteria are listed")
    if constant := _constant(report):
        console.print("[bold]values do not vary within any group:[/]", highlight=False)
        for one in constant:
            text = f"  {one['judge']}/{one['name']}: {_constant_value(one)}"
            console.print(text, highlight=False, markup=False, soft_wrap=True)


def decides(one: "CriterionStatistics") -> float | None:
    """Return the share of groups in which the values differ; None without a group of two verdicts."""
    return one["deciding_groups"] / one["groups"] if one["groups"] else None


def _constant(report: "CriteriaReport") -> "list[CriterionStatistics]":
    return [one for one in report.criteria if one["groups"] and not one["deciding_groups"]]


def _scope(run: str, split: str, report: "CriteriaReport") -> str:
    latest = "latest " if report.older_batches else ""
    read = f"{latest}{counted(report.batches, 'batch')}"
    steps = ""
    if report.first_step is not None:
        steps = f", steps {report.first_step} to {report.last_step}"
    return f"run {run}, split {split}: {read}{steps}"


def _cells(one: "CriterionStatistics") -> tuple[str, ...]:
    low, high = one["min_weight"], one["max_weight"]
    share = decides(one)
    groups = f"{one['deciding_groups']} of {counted(one['groups'], 'group')}"
    return (
        one["judge"],
        one["name"],
        f"{low:g}" if low == high else f"{low:g} to {high:g}",
        str(one["rollouts"]),
        str(one["missing"]),
        "–" if one["mean_value"] is None else f"{one['mean_value']:.2f}",
        "–" if one["met"] is None else f"{one['met']:.0%}",
        "no group of two" if share is None else f"{share:.0%} ({groups})",
    )


def _constant_value(one: "CriterionStatistics") -> str:
    assert one["mean_value"] is not None  # its groups have verdicts
    kind = "a pitfall, " if one["max_weight"] < 0 else ""
    return f"{kind}mean value {one['mean_value']:.2f} in {counted(one['groups'], 'group')}"


def _note(text: str) -> None:
    notes.print(text, highlight=False, markup=False, soft_wrap=True)
