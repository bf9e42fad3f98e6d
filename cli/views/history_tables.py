"""Prints a judgement with its request and attempts."""

import json
from collections.abc import Mapping
from typing import Any

from rich.markup import escape

from oyer.cli.support.output import console
from oyer.cli.views.batch_tables import plain
from oyer.protocol.content import content_text

__all__ = ["plain", "show"]


def show(row: Mapping[str, Any]) -> None:
    """Print a judgement, its request and every attempt."""
    place = (
        f"{row['batch_id']}/{row['rollout_index']}, judge {row['judge']}, sample {row['sample']}"
    )
    score = "" if row["score"] is None else f" {row['score']:g}"
    _line("judgement", place)
    _line(
        "status", f"{row['status']}{score} ({row['source']}; {row['model']} at {row['endpoint']})"
    )
    _line("request", str(row["request_hash"] or "none"))
    if row["messages"] is not None:
        _line("", "made again from the record; its hash is the same")
    for name in ("problem", "note", "error"):
        if row[name]:
            _line(name, row[name])
    sent: Any = None
    for attempt in row["attempts"]:
        _show_attempt(attempt, same=attempt["request"] is not None and attempt["request"] == sent)
        sent = attempt["request"]
    if not row["attempts"]:
        _show_messages(row["messages"] or ())
        _text("reasoning", row["reasoning"])
        _text("reply", row["reply"])


def _show_attempt(attempt: Mapping[str, Any], *, same: bool) -> None:
    result = attempt["http_status"] or "no response"
    waited = attempt["retry_wait_s"]
    then = "" if waited is None else f", then a wait of {waited:.2f} s"
    console.print()
    kind = " (second request of a hedged call)" if attempt["hedge"] else ""
    _line(
        f"attempt {attempt['number']}{kind}",
        f"{attempt['started_at']:%Y-%m-%d %H:%M:%S} UTC: {result}"
        f" after {attempt['latency_ms'] or 0:.0f} ms{then}",
    )
    request = attempt["request"]
    if same:
        _line("sent", "the same as before")
    elif request is not None:
        fields = {name: value for name, value in request.items() if name != "messages"}
        _line("sent", json.dumps(fields, ensure_ascii=False))
        _show_messages(request["messages"])
    if attempt["error_class"]:
        _line("error", f"{attempt['error_class']}: {attempt['error'] or 'its text was not kept'}")
    _text("reasoning", attempt["reasoning"])
    _text("reply", attempt["reply"])


def _show_messages(messages: Any) -> None:
    for message in messages:
        _text(str(message["role"]), content_text(message["content"]))


def _line(name: str, value: str) -> None:
    console.print(f"[bold]{name:<10}[/] {escape(value)}", highlight=False, soft_wrap=True)


def _text(name: str, text: str | None) -> None:
    if text is not None:
        console.print(f"[bold]--- {escape(name)}[/]", highlight=False)
        console.print(text, highlight=False, markup=False, soft_wrap=True)
