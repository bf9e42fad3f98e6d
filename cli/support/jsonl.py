"""Reads rollouts from JSON lines, and converts rewards to JSON lines."""

import json
import math
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from oyer.manager import InvalidRollout, RewardBatch, RewardConfig, Rollout
from oyer.manager.validation import check

RewardLine = dict[str, Any]
"""The reward of one rollout and its details; null for missing values."""

_FIELDS = {field.name for field in fields(Rollout)}

_PROBLEMS_SHOWN = 10


def read_rollouts(path: Path, config: RewardConfig) -> list[Rollout]:
    """Read a file, and check every line against the configuration.

    Raises:
        InvalidRollout: lines are invalid; the message names each with its fix.
    """
    lines = _lines(path)
    rollouts, problems = [], []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            rollout = _rollout(line)
            check([rollout], config)
        except InvalidRollout as error:
            problems.append(f"line {number}: {str(error).removeprefix('rollouts[0].')}")
        else:
            rollouts.append(rollout)
    if problems:
        raise InvalidRollout(_listed(path, problems))
    if not rollouts:
        raise InvalidRollout(f"{path}: holds no rollouts; give one JSON object per line")
    return rollouts


def read_rollout(path: Path, number: int) -> Rollout:
    """Read one line of a file, counted from 1, for a judge; other lines are not checked.

    Raises:
        InvalidRollout: the line is missing or invalid; the message names the fix.
    """
    lines = _lines(path)
    if number > len(lines):
        raise InvalidRollout(f"{path}: has {len(lines)} lines; there is no line {number}")
    try:
        rollout = _rollout(lines[number - 1])
        # Fields that only a length method reads are not required here.
        check([rollout], RewardConfig(length=()))
    except InvalidRollout as error:
        raise InvalidRollout(
            f"{path}: line {number}: {str(error).removeprefix('rollouts[0].')}"
        ) from error
    return rollout


def _lines(path: Path) -> list[bytes]:
    try:
        return path.read_bytes().splitlines()
    except OSError as error:
        raise InvalidRollout(f"{path}: {error.strerror}; give a file of JSON lines") from error


def _listed(path: Path, problems: list[str]) -> str:
    more = len(problems) - _PROBLEMS_SHOWN
    shown = problems[:_PROBLEMS_SHOWN] + ([f"and {more} more"] if more > 0 else [])
    return "\n  ".join([f"{path}: nothing was submitted", *shown])


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse repeated keys, of which json would keep the last."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise InvalidRollout(f"{twice[:100]}: occurs twice in one object; keep one of them")
    return found


def _rollout(line: bytes) -> Rollout:
    try:
        raw = json.loads(line, object_pairs_hook=_once)
    except RecursionError as error:
        raise InvalidRollout("nests too deep; flatten its metadata or messages") from error
    except InvalidRollout:
        raise
    except ValueError as error:
        raise InvalidRollout(f"is not valid JSON ({error}); give one object per line") from error
    if not isinstance(raw, dict):
        raise InvalidRollout('is not a JSON object; give {"prompt": …, "response": …}')
    # A null is the same as a missing key.
    given = {name: value for name, value in raw.items() if value is not None}
    for name in ("prompt", "response"):
        if name not in given:
            raise InvalidRollout(f"{name}: is missing; give it as text or messages")
    known = {name: value for name, value in given.items() if name in _FIELDS}
    # Other columns of a data set are stored as metadata.
    extra = {name: value for name, value in given.items() if name not in _FIELDS}
    metadata = known.get("metadata", {})
    if extra and isinstance(metadata, dict):
        known["metadata"] = {**extra, **metadata}
    return Rollout(**known)


def reward_lines(rollouts: list[Rollout], batch: RewardBatch) -> Iterator[RewardLine]:
    """Yield the lines of a batch, in its order."""
    components = batch.components
    for i, rollout in enumerate(rollouts):
        line: RewardLine = {
            "group_id": rollout.group_id,
            "reward": _number(batch.rewards[i]),
            "judge_score": _number(batch.judge_scores[i]),
            "status": batch.statuses[i],
            "trainable": bool(batch.mask[i]),
            "terms": {name: _number(term[i]) for name, term in batch.terms.items()},
            "components": {name: _number(values[i]) for name, values in components.items()},
            "batch_id": batch.id,
            "rollout_index": i,
        }
        if batch.criteria and batch.criteria[i]:
            line["criteria"] = batch.criteria[i]
        if batch.turn_scores and batch.turn_scores[i]:
            line["turn_scores"] = batch.turn_scores[i]
        yield line


def _number(value: Any) -> float | None:
    """Convert a 32-bit float to the shortest equal number; -0.0 becomes 0.0."""
    return float(str(value)) + 0.0 if math.isfinite(value) else None
