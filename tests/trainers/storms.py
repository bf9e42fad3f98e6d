"""A judge that fails for some responses, and what the examples must make of them."""

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


def splits(backend: Backend, run: str) -> dict[str | None, set[int | None]]:
    """Read the steps on record of each split of a run."""
    query = "SELECT split, step FROM batches WHERE run = ?"
    found: dict[str | None, set[int | None]] = {}
    with sqlite3.connect(backend.folder / "record.db") as connection:
        for split, step in connection.execute(query, (run,)):
            found.setdefault(split, set()).add(step)
    return found
