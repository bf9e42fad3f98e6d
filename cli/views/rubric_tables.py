"""Prints rubrics, requests and replies for `oyer rubric`."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import typer
from rich.markup import escape
from rich.table import Table

from oyer.cli.support.output import console, notes, print_table, printable
from oyer.protocol.content import content_text

if TYPE_CHECKING:
    from oyer.config.reward import RewardConfig
    from oyer.tasks.judging.requests import JudgeRequest


def facts(name: str, text: str, *, same_as: str | None = None) -> dict[str, Any]:
    """Return the properties of a rubric.

    Args:
        same_as: the built-in rubric with the same text.
    """
    from oyer.config import rubric as rubrics

    rubric = rubrics.parse(text)
    return {
        "name": name,
        "rubric": same_as or rubric.name,
        "hash": rubrics.rubric_hash(text),
        "language": rubric.language,
        "scale": rubric.scale,
        "reason_first": rubric.reason_first,
        "asks_for_verdict": rubrics.asks_for_verdict(rubric),
        "criteria": [one.name for one in rubric.criteria]
        + [one.name for one in rubric.verdicts_on],
        "levels": len(rubric.levels),
        "metadata": rubric.metadata_places,
    }


def print_list(listed: Sequence[Mapping[str, Any]]) -> None:
    """Print one line per rubric."""
    table = Table()
    for title in ("name", "rubric", "language", "criteria", "levels", "verdict asked for"):
        table.add_column(title, overflow="fold")
    for one in listed:
        order = "after the reasons" if one["reason_first"] else "alone"
        cells = (
            one["name"],
            one["rubric"] or "unnamed",
            one["language"],
            ", ".join(one["criteria"]) or "none",
            str(one["levels"]),
            order if one["asks_for_verdict"] else "in its own words, or not at all",
        )
        table.add_row(*map(escape, cells))
    print_table(table)


def note_verdict(text: str) -> None:
    """Print a note if a rubric has no place for the verdict line."""
    from oyer.config import rubric as rubrics

    if not rubrics.asks_for_verdict(rubrics.parse(text)):
        notes.print(
            "note: this rubric has no {verdict}, so that nothing is added that asks for a score. Its"
            " own words must ask for a last line such as `Final score: N`; otherwise replies are"
            " `unparseable`. docs/rubrics.md lists the spellings that are read.",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )


def request(job: "JudgeRequest", settings: "RewardConfig") -> dict[str, Any]:
    """Return a request with its key as JSON values."""
    import dataclasses

    assert job.request is not None
    fields = dataclasses.asdict(job.request)
    own = fields.pop("extra_body")
    endpoint = settings.endpoints.get(job.judge.endpoint)
    shared = endpoint.extra_body if endpoint else {}
    sent = {name: value for name, value in fields.items() if value is not None}
    return {
        "judge": job.judge.name,
        "endpoint": job.judge.endpoint,
        "rubric_hash": job.rubric_hash,
        "request_hash": job.key,
        "request": {**sent, **shared, **own},
    }


def print_request(job: "JudgeRequest") -> None:
    """Print the messages of a request under their roles."""
    assert job.request is not None
    for message in job.request.messages:
        _heading(message["role"])
        # Printed without wrapping and markup.
        typer.echo(printable(content_text(message["content"])))
    _heading(f"end of the request {job.key}")


def print_trial(trial: Mapping[str, Any]) -> None:
    """Print a reply and the score parsed from it."""
    if "error" in trial:
        _line("status", trial["status"])
        _line("error", trial["error"])
        return
    _heading("reply")
    typer.echo(printable(trial["reply"]))
    _heading("read from it")
    score = "none" if trial["score"] is None else f"{trial['score']:g}"
    tokens = f"{trial['prompt_tokens']} prompt, {trial['completion_tokens']} completion"
    _line("status", trial["status"])
    _line("score", score)
    _line("read from", repr(trial["span"]) if trial["span"] else "nothing")
    _line("reader", trial["layer"])
    _line("finish", trial["finish_reason"] or "not said")
    _line("tokens", tokens)
    _line("latency", f"{trial['latency_ms']:.0f} ms")


def _heading(text: str) -> None:
    console.print(f"[bold]--- {escape(text)} ---[/]", highlight=False, soft_wrap=True)


def _line(name: str, value: str) -> None:
    console.print(f"[bold]{name:<10}[/] {escape(value)}", highlight=False, soft_wrap=True)
