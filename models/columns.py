"""Turns rows into columns: texts are replaced by their hashes, and images by references; pure."""

import json
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from operator import itemgetter
from typing import Any, cast

from oyer.models.base import clean_text, dump_json
from oyer.models.judgement import SCORED
from oyer.models.rollout import without_images
from oyer.models.rows import AttemptRow, JudgementRow, RolloutRow, StoredJudgement

_DATA_IMAGE = "data:image/"

JUDGEMENT_KEY = itemgetter("rollout_index", "judge", "sample")
"""Identifies a judgement within its batch."""


def rollout_rows(
    rollouts: Iterable[RolloutRow], texts: dict[str, str]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the rows of rollouts and of their images; texts and images go to `texts`."""
    rows, linked = [], []
    for rollout in rollouts:
        row: dict[str, Any] = dict(rollout)
        images: dict[str, str] = {}
        for name in ("prompt", "response"):
            if isinstance(row[name], list):
                row[name] = without_images(row[name], images)
        texts |= images
        linked += [{"rollout_index": row["rollout_index"], "hash": digest} for digest in images]
        rows.append(_by_hash(row, ("prompt", "response", "reference", "tools"), texts))
    return rows, linked


def without_criteria(
    judgements: Sequence[JudgementRow],
) -> tuple[list[JudgementRow], dict[Any, list[dict[str, Any]]]]:
    """Separate judgements from their verdicts on criteria, which are rows by judgement."""
    plain: list[JudgementRow] = []
    verdicts: dict[Any, list[dict[str, Any]]] = {}
    for row in judgements:
        if row.get("criteria"):
            key = JUDGEMENT_KEY(row)
            place = dict(zip(("rollout_index", "judge", "sample"), key, strict=True))
            verdicts[key] = [{**place, **one} for one in row["criteria"]]
        kept = {name: value for name, value in row.items() if name != "criteria"}
        plain.append(cast(JudgementRow, kept))
    return plain, verdicts


def not_outdated(
    verdicts: Mapping[Any, list[dict[str, Any]]],
    judgements: Sequence[JudgementRow],
    stored: Sequence[StoredJudgement],
) -> dict[Any, list[dict[str, Any]]]:
    """Leave out the verdicts of judgements in whose place the record keeps an earlier one."""
    kept = {JUDGEMENT_KEY(row): row for row in stored if row["status"] == SCORED}
    earlier = {
        key
        for row in judgements
        if (key := JUDGEMENT_KEY(row)) in kept
        and clean_text(row.get("reply") or "") != (kept[key].get("reply") or "")
    }
    return {key: rows for key, rows in verdicts.items() if key not in earlier}


def _without_images(judgement: JudgementRow) -> Mapping[str, Any]:
    """Replace the images of a judgement's messages by references; its rollout has the images."""
    messages = judgement.get("messages")
    if messages is None or _DATA_IMAGE not in messages:
        return judgement
    return {**judgement, "messages": json.dumps(without_images(json.loads(messages), {}))}


def judgement_columns(judgement: JudgementRow, texts: dict[str, str]) -> dict[str, Any]:
    """Return the columns of a judgement without criteria; its texts go to `texts`."""
    return _by_hash(_without_images(judgement), ("parameters", "messages"), texts)


def _by_hash(row: Mapping[str, Any], names: Iterable[str], texts: dict[str, str]) -> dict[str, Any]:
    """Move the named texts of a row to `texts`, and put their hashes in their place."""
    columns: dict[str, Any] = dict(row)
    for name in names:
        body = columns.pop(name, None)
        if body is not None:
            columns[f"{name}_hash"] = _add_text(body, texts)
    if columns.get("group_id") is not None:
        columns["group_id"] = str(columns["group_id"])
    return columns


def _add_text(body: Any, texts: dict[str, str]) -> str:
    """Add a text to `texts`; returns its hash."""
    # Keep the key order of chat messages, because the judge sees it.
    body = clean_text(body) if isinstance(body, str) else dump_json(body, sort_keys=False)
    digest = sha256(body.encode()).hexdigest()
    texts[digest] = body
    return digest


def attempt_rows(
    attempts: Iterable[AttemptRow],
    judgements: Iterable[Mapping[str, Any]],
    texts: dict[str, str],
) -> list[dict[str, Any]]:
    """Replace the texts of attempts by hashes; drop those that a scored judgement holds.

    Args:
        judgements: the rows on record, with the parameters by hash.
    """
    scored = {JUDGEMENT_KEY(row): row for row in judgements if row["status"] == SCORED}
    rows = []
    for attempt in attempts:
        row: dict[str, Any] = dict(attempt)
        held = scored.get(JUDGEMENT_KEY(row), {})
        for name in ("reply", "reasoning"):
            if row.get(name) == held.get(name):
                row.pop(name, None)
        row = _by_hash(row, ("reply", "reasoning"), texts)
        if (parameters := row.pop("parameters", None)) is not None:
            own: dict[str, str] = {}
            digest = _add_text(parameters, own)
            if digest != held.get("parameters_hash"):
                texts |= own
                row["parameters_hash"] = digest
        if row.get("turns") is not None:
            added = [_by_hash(turn, ("content",), texts) for turn in row["turns"]["added"]]
            row["turns"] = {**row["turns"], "added": added}
        rows.append(row)
    return rows
