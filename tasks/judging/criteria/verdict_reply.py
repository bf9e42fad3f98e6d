"""Reads verdicts on criteria from a reply: `{"verdicts": [{"name", "reason", "verdict"}]}`; pure.

A wrong verdict is worse than none: a name that is repeated, verdicts of two objects that differ, a
choice that is not offered, and an entry that is cut off give no verdict.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from oyer.config.criteria.criterion import Criterion
from oyer.protocol.batch_result import UNNAMED
from oyer.tasks.parsing.context import reconsiders
from oyer.tasks.parsing.json_objects import ReplyDecoder, rank_at
from oyer.tasks.parsing.normalize import normalise, strip_thinking, unwrap

MAX_ENTRY_CHARS = 400
"""Longest span of one verdict on record, in characters."""

MAX_OBJECTS = 64
"""Objects read of one reply."""


@dataclass(frozen=True, slots=True)
class CriterionVerdict:
    """What a judge says on one criterion."""

    criterion: Criterion
    verdict: bool | str
    value: float
    """1 if met, else 0; of a choice, its rank from 0 (worst) to 1 (best). Met is bad for a pitfall."""
    reason: str | None
    span: str
    """The part of the reply that holds the verdict."""


def read_verdicts(text: str, criteria: Sequence[Criterion]) -> dict[str, CriterionVerdict]:
    """Return the verdicts that a reply states on these criteria, by name."""
    visible = strip_thinking(normalise(text))
    if visible is None:
        return {}
    reply = unwrap(visible)
    found: dict[str, CriterionVerdict | None] = {}
    objects = list(_objects(reply))
    for entries, _ in objects:
        for name, verdict in _by_name(entries, criteria).items():
            if name in found and not _agree(found[name], verdict):
                verdict = None
            found[name] = verdict
    if found and reconsiders(reply, objects[-1][1]):
        return {}
    return {name: verdict for name, verdict in found.items() if verdict is not None}


def verdicts_text(verdicts: Sequence[CriterionVerdict]) -> str:
    """Return verdicts as a reply that `read_verdicts` reads."""
    entries = [
        {"name": one.criterion.name, "reason": one.reason, "verdict": one.verdict}
        for one in verdicts
    ]
    return json.dumps({"verdicts": entries}, ensure_ascii=False)


class _Conflict:
    """The value of a key that an object has twice with different values."""


def _without_conflicts(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        found[key] = value if key not in found or found[key] == value else _Conflict()
    return found


def _objects(reply: str) -> Iterator[tuple[list[tuple[Any, str]], int]]:
    """Yield the entries with their texts, and the end, of each outermost object with verdicts.

    An object inside another one, e.g. quoted in a reason, is not outermost, and one inside a sentence
    is a quotation. Of a list that is cut off, the whole entries are yielded.
    """
    decoder = ReplyDecoder(_without_conflicts)
    at = 0
    for _ in range(MAX_OBJECTS):
        start = reply.find("{", at)
        if start < 0:
            return
        try:
            value, end = decoder.at(reply, start)
        except (ValueError, RecursionError):
            opening = _list_start(reply, start)
            if opening is None:
                at = start + 1
                continue
            # Text behind it may belong to a reason, so nothing more is read.
            if rank_at(reply, start, len(reply)) is not None:
                yield _entries(reply, opening, decoder)
            return
        at = end
        if isinstance(value.get("verdicts"), list) and rank_at(reply, start, end) is not None:
            opening = _list_start(reply, start)
            entries = _entries(reply, opening, decoder)[0] if opening is not None else []
            if len(entries) == len(value["verdicts"]):
                yield entries, end
            else:  # `verdicts` is not the first key
                yield [(entry, reply[start:end]) for entry in value["verdicts"]], end


def _list_start(reply: str, start: int) -> int | None:
    """Return the position behind `{"verdicts": [` at `start`; None if it is not there."""
    at = start + 1
    for token in ('"verdicts"', ":", "["):
        while at < len(reply) and reply[at].isspace():
            at += 1
        if not reply.startswith(token, at):
            return None
        at += len(token)
    return at


def _entries(reply: str, at: int, decoder: ReplyDecoder) -> tuple[list[tuple[Any, str]], int]:
    """Read list entries from `at` on, up to the first that is not JSON; returns also the end."""
    entries: list[tuple[Any, str]] = []
    while True:
        while at < len(reply) and (reply[at].isspace() or reply[at] == ","):
            at += 1
        try:
            value, end = decoder.at(reply, at)
        except (ValueError, RecursionError):
            return entries, at
        entries.append((value, reply[at:end]))
        at = end


def _by_name(
    entries: Sequence[tuple[Any, str]], criteria: Sequence[Criterion]
) -> dict[str, CriterionVerdict | None]:
    """Return the verdicts of one object by the criteria's names; None for a name with a wrong one."""
    names = _names(criteria)
    found: dict[str, CriterionVerdict | None] = {}
    for entry, text in entries:
        name = entry.get("name") if isinstance(entry, Mapping) else None
        criterion = names.get(name.strip()) if isinstance(name, str) else None
        if criterion is None:
            continue
        repeated = criterion.name in found
        found[criterion.name] = None if repeated else _verdict(entry, text, criterion)
    return found


def _names(criteria: Sequence[Criterion]) -> dict[str, Criterion]:
    """Return criteria by name as a normalised reply spells it; one without a name also by its text."""
    named = {normalise(one.name).strip(): one for one in criteria}
    unnamed = [one for one in criteria if UNNAMED.fullmatch(one.name)]
    return {**{normalise(one.text).strip(): one for one in unnamed}, **named}


def _verdict(entry: Mapping[str, Any], text: str, criterion: Criterion) -> CriterionVerdict | None:
    stated, reason = entry.get("verdict"), entry.get("reason")
    if criterion.choices:
        offered = {normalise(choice): i for i, choice in enumerate(criterion.choices)}
        rank = offered.get(stated.strip()) if isinstance(stated, str) else None
        if rank is None:
            return None
        verdict: bool | str = criterion.choices[rank]
        value = rank / (len(criterion.choices) - 1)
    else:
        if isinstance(stated, str):
            stated = {"true": True, "false": False}.get(stated.strip().lower())
        if not isinstance(stated, bool):
            return None
        verdict, value = stated, float(stated)
    kept = reason if isinstance(reason, str) else None
    return CriterionVerdict(criterion, verdict, value, kept, text[:MAX_ENTRY_CHARS])


def _agree(one: CriterionVerdict | None, other: CriterionVerdict | None) -> bool:
    return one is not None and other is not None and one.verdict == other.verdict
