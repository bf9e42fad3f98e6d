"""Reads rollouts from JSON lines, and writes rewards as JSON lines."""

import json
import math
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, TextIO

from oyer.manager import InvalidRollout, RewardBatch, Rollout

_FIELDS = {field.name for field in fields(Rollout)}


def read_rollouts(path: Path) -> list[Rollout]:
    """Read a whole file before anything of it is used.

    Raises:
        InvalidRollout: names the file and the line that is wrong, and the fix.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise InvalidRollout(f"{path}: {error.strerror}; give a file of JSON lines") from error
    rollouts = [
        _rollout(line, f"{path}: line {number}")
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]
    if not rollouts:
        raise InvalidRollout(f"{path}: holds no rollouts; give one JSON object per line")
    return rollouts


def _rollout(line: bytes, where: str) -> Rollout:
    try:
        raw = json.loads(line)
    except ValueError as error:
        raise InvalidRollout(f"{where}: is no JSON ({error})") from error
    if not isinstance(raw, dict):
        raise InvalidRollout(f"{where}: is no JSON object; give {{'prompt': …, 'response': …}}")
    for name in ("prompt", "response"):
        if name not in raw:
            raise InvalidRollout(f"{where}: {name} is missing")
    # Further columns of a data set are kept on record rather than refused.
    extra = {name: value for name, value in raw.items() if name not in _FIELDS}
    known = {name: value for name, value in raw.items() if name in _FIELDS}
    known["metadata"] = {**extra, **known["metadata"]} if known.get("metadata") else extra
    return Rollout(**known)


def write_rewards(out: TextIO, rollouts: list[Rollout], batch: RewardBatch) -> None:
    """Write one line per rollout, in order."""
    for line in reward_lines(rollouts, batch):
        out.write(json.dumps(line, ensure_ascii=False) + "\n")


def reward_lines(rollouts: list[Rollout], batch: RewardBatch) -> Iterator[dict[str, Any]]:
    """Give what is known of each rollout's reward; null where there is none."""
    for i, rollout in enumerate(rollouts):
        yield {
            "group_id": rollout.group_id,
            "reward": _number(batch.rewards[i]),
            "judge_score": _number(batch.judge_scores[i]),
            "status": batch.statuses[i],
            "trainable": bool(batch.mask[i]),
            "terms": {name: _number(term[i]) for name, term in batch.terms.items()},
            "batch_id": batch.id,
            "rollout_index": i,
        }


def _number(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None
