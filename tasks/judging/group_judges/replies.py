"""Reads a group judge's reply: a list of scores, or the winner of a pair; pure.

A JSON object may have prose around it. One that is quoted or part of a sentence is not the judge's
answer, and neither is one that the judge takes back afterwards. A wrong entry makes the whole reply
wrong, because the rollouts of a group are compared with each other. Nothing is clamped or filled in.
"""

import json
import math
import re
from dataclasses import dataclass
from itertools import islice
from typing import Any

from oyer.tasks.parsing.context import reconsiders
from oyer.tasks.parsing.json_objects import ReplyDecoder, rank_at

MAX_OBJECTS = 1000
"""Opening braces of a reply at which an object is looked for, counted from its start."""

_RESPONSE = re.compile(r"\A(?:response\s|回复|回答)\s*")
_OPENING = re.compile(r"\{(?=\s*[\"'])")


class _Object(dict[str, Any]):
    """A decoded object that knows whether a key had two values."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.repeats = len(self) < len(pairs)


@dataclass(frozen=True, slots=True)
class ListedScore:
    """One entry of a list: a response's score."""

    score: float
    explanation: str
    text: str
    """The entry as JSON."""


@dataclass(frozen=True, slots=True)
class Winner:
    """The result of comparing two responses."""

    outcome: int
    """1: the first won, -1: the second, 0: a tie."""
    reason: str


def read_list(text: str, n: int, scale: tuple[float, float]) -> list[ListedScore] | str:
    """Read the scores of `n` responses, in the order of their ids 1 to n, or what is wrong.

    Args:
        text: the reply, normalised and without thinking.
    """
    found = [one for one in _objects(text) if isinstance(one.get("scores"), list)]
    if not found:
        return 'it has no JSON object with a list "scores" as its answer'
    read = [_list_of(one, n, scale) for one in found]
    valid = [one for one in read if not isinstance(one, str)]
    if not valid:
        return read[-1]
    if any(_values(one) != _values(valid[-1]) for one in valid):
        return "it has several lists with different scores"
    return valid[-1]


def read_winner(text: str) -> Winner | str:
    """Read which of two responses won, or what is wrong; `text` as for `read_list`."""
    found = [one for one in _objects(text) if "winner" in one]
    if not found:
        return 'it has no JSON object with a "winner" as its answer'
    read = [_winner_of(one) for one in found]
    valid = [one for one in read if not isinstance(one, str)]
    if not valid:
        return read[-1]
    if any(one.outcome != valid[-1].outcome for one in valid):
        return "it names different winners"
    return valid[-1]


def _list_of(found: "_Object", n: int, scale: tuple[float, float]) -> list[ListedScore] | str:
    if found.repeats:
        return "its JSON object has a key twice"
    by_id: dict[int, ListedScore] = {}
    for entry in found["scores"]:
        if not isinstance(entry, _Object) or entry.repeats:
            return f"the entry {json.dumps(entry)[:100]} is not an object with each key once"
        number, score = _number(entry.get("id")), _number(entry.get("score"))
        if number is None or not number.is_integer() or not 1 <= number <= n:
            return f"the id {json.dumps(entry.get('id'))[:100]} is none of 1 to {n}"
        if int(number) in by_id:
            return f"the id {int(number)} is there twice"
        if score is None or not scale[0] <= score <= scale[1]:
            given = json.dumps(entry.get("score"))[:100]
            return (
                f"the score {given} of id {int(number)} is no number from {scale[0]:g} to"
                f" {scale[1]:g}"
            )
        by_id[int(number)] = ListedScore(
            score, str(entry.get("explanation") or ""), json.dumps(entry, ensure_ascii=False)
        )
    missing = [str(i) for i in range(1, n + 1) if i not in by_id]
    if missing:
        return f"the ids {', '.join(missing)} are missing"
    return [by_id[i] for i in range(1, n + 1)]


def _values(entries: list[ListedScore]) -> list[float]:
    return [entry.score for entry in entries]


def _winner_of(found: "_Object") -> Winner | str:
    stated = found["winner"]
    named = _RESPONSE.sub("", str(stated).strip().lower())
    outcome = {"1": 1, "2": -1, "tie": 0}.get(named)
    if found.repeats or isinstance(stated, bool) or outcome is None:
        return f'the winner {json.dumps(stated)[:100]} is none of 1, 2 and "tie"'
    return Winner(outcome, str(found.get("reason") or ""))


def _number(stated: Any) -> float | None:
    """Return a JSON number, or a number written as a string."""
    if isinstance(stated, str) and re.fullmatch(r"\s*[-+]?\d{1,15}(\.\d{1,15})?\s*", stated):
        return float(stated)
    if isinstance(stated, bool) or not isinstance(stated, (int, float)):
        return None
    value = float(stated) if abs(stated) < 1e15 else math.nan
    return value if math.isfinite(value) else None


def _objects(text: str) -> list["_Object"]:
    """Return the outermost JSON objects by which a reply answers; none if it takes them back."""
    objects: list[_Object] = []
    decoder = ReplyDecoder(_Object)
    at = 0
    for opening in islice(_OPENING.finditer(text), MAX_OBJECTS):
        if opening.start() < at:
            continue
        try:
            found, at = decoder.at(text, opening.start())
        except (ValueError, RecursionError):
            continue
        if rank_at(text, opening.start(), at) is not None:
            objects.append(found)
    return [] if objects and reconsiders(text, at) else objects
