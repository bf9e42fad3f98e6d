"""A judge that fails for some responses, and what the examples must make of them."""

import json
import re
import sqlite3
from typing import Any

from trainer_backend import Backend, judged, score_of

from oyer.demo.responses import Action, named


def stormy(arrival: Any) -> Action:
    """Score a response, unless it asks for a storm of 429s."""
    text = judged(arrival)
    if "storm" in text:
        return named("rate_limited", retry_after_s=0)
    return Action(text=f"Final score: {score_of(text)}")


def sent(request: Any) -> str:
    """All that the judge was sent."""
    return "\n".join(message["content"] for message in json.loads(request.body)["messages"])


def authors(request: Any, text: str) -> list[str]:
    """The authors under whose names the judge was shown a part that begins with a text."""
    pattern = rf"^\[(\w+)\].*\n.*\n{re.escape(text)}"
    found: list[str] = re.findall(pattern, sent(request), re.MULTILINE)
    return found


def splits(backend: Backend, run: str) -> dict[str | None, set[int | None]]:
    """Read the steps on record of each split of a run."""
    query = "SELECT split, step FROM batches JOIN runs ON runs.id = run_id WHERE name = ?"
    found: dict[str | None, set[int | None]] = {}
    with sqlite3.connect(backend.folder / "record.db") as connection:
        for split, step in connection.execute(query, (run,)):
            found.setdefault(split, set()).add(step)
    return found
