"""What the tasks of a chord hand to `combine`: verdicts by chunk, and length terms."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oyer.tasks.errors import MessageRefused
from oyer.tasks.outcome import packed64, unpacked64

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class JudgePart:
    """The verdicts on one chunk, in order."""

    chunk: int
    scores: dict[str, list[float | None]]
    """By judge; None where there is none, so that JSON holds no NaN."""
    statuses: dict[str, list[str]]
    """By judge."""
    usage: dict[str, float] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    """For each failed status, the first error."""

    def to_wire(self) -> dict[str, Any]:
        """Give the JSON form."""
        return {
            "part": "judge",
            "chunk": self.chunk,
            "scores": self.scores,
            "statuses": self.statuses,
            "usage": self.usage,
            "errors": self.errors,
        }


@dataclass(frozen=True, kw_only=True)
class LengthPart:
    """The length terms of a whole batch, `[N]` each."""

    added: dict[str, Floats]
    """Terms to add, their weights in them."""
    multiplied: dict[str, Floats]
    """Factors of base score and judges."""

    def to_wire(self) -> dict[str, Any]:
        """Give the JSON form."""
        return {
            "part": "length",
            "added": {name: packed64(term) for name, term in self.added.items()},
            "multiplied": {name: packed64(term) for name, term in self.multiplied.items()},
        }


def read_parts(
    parts: Iterable[Mapping[str, Any]],
) -> tuple[dict[int, JudgePart], LengthPart | None]:
    """Sort out what arrived; of duplicates, the first counts.

    Raises:
        MessageRefused: a part is of a kind that this worker does not know.
    """
    judge_parts: dict[int, JudgePart] = {}
    length_part: LengthPart | None = None
    for part in parts:
        if part.get("part") == "judge":
            fields = {name: value for name, value in part.items() if name != "part"}
            judge_parts.setdefault(part["chunk"], JudgePart(**fields))
        elif part.get("part") == "length":
            length_part = length_part or LengthPart(
                added={name: unpacked64(term) for name, term in part["added"].items()},
                multiplied={name: unpacked64(term) for name, term in part["multiplied"].items()},
            )
        else:
            raise MessageRefused(f"a part of kind {part.get('part')!r} is of another version")
    return judge_parts, length_part
