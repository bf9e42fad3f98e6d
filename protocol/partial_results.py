"""Results of a chord's header tasks: verdicts by chunk, and length terms."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, TypeAdapter

from oyer.protocol.batch import Manifest
from oyer.protocol.batch_result import packed64, unpacked64
from oyer.protocol.errors import BatchFailed, MessageRefused

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class JudgeResult:
    """The verdicts on one chunk, in order."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", allow_inf_nan=False)

    chunk: int
    scores: dict[str, list[float | None]]
    """By judge; a missing score is None, because JSON has no NaN."""
    statuses: dict[str, list[str]]
    """By judge."""
    errors: dict[str, str] = field(default_factory=dict)
    """For each failed status, the first error."""
    criteria: dict[str, list[list[dict[str, Any]]]] = field(default_factory=dict)
    """By judge that gives verdicts on criteria: those of each rollout."""
    turn_scores: list[list[float | None]] = field(default_factory=list)
    """Of each rollout, by the judge with `view: each_turn`; empty without one."""
    latencies_ms: list[int] = field(default_factory=list)
    """Of the judgements that were called for, in ms."""
    reasons: dict[int, str] = field(default_factory=dict)
    """By row of the batch, for its `sampled_rows`: what the judges replied."""

    def to_wire(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "part": "judge",
            "chunk": self.chunk,
            "scores": self.scores,
            "statuses": self.statuses,
            # Earlier releases refuse a key that they do not know, and ignore what is in this one.
            "usage": {
                name: value
                for name, value in (("latencies_ms", self.latencies_ms), ("reasons", self.reasons))
                if value
            },
            "errors": self.errors,
            # Left out if empty, for the same reason.
            **({"criteria": self.criteria} if self.criteria else {}),
            **({"turn_scores": self.turn_scores} if self.turn_scores else {}),
        }


@dataclass(frozen=True, kw_only=True)
class LengthResult:
    """The length terms of a whole batch, `[N]` each, by term name."""

    added: dict[str, Floats] = field(default_factory=dict)
    """Weighted terms to add; NaN where undefined."""
    multiplied: dict[str, Floats] = field(default_factory=dict)
    """Multipliers of base score and judges."""
    changed: dict[str, Floats] = field(default_factory=dict)
    """Changes to base score and judges by methods that compute the whole reward."""
    advantages: dict[str, Floats] = field(default_factory=dict)
    """Terms of the advantage, not of the reward."""
    history: dict[str, Floats] = field(default_factory=dict)
    """New histories of methods with state; NaN where a row has none."""
    kept: NDArray[np.bool_] | None = None
    """False where a row is excluded from training; None excludes no row."""

    @property
    def arrays(self) -> list[NDArray[Any]]:
        """All arrays with one value per row."""
        named = [array for kind in _ARRAYS for array in getattr(self, kind).values()]
        return named if self.kept is None else [*named, self.kept]

    def to_wire(self) -> dict[str, Any]:
        """Return the JSON form."""
        arrays = {kind: getattr(self, kind) for kind in _ARRAYS}
        return {
            "part": "length",
            "kept": None if self.kept is None else self.kept.tolist(),
            **{kind: {n: packed64(a) for n, a in named.items()} for kind, named in arrays.items()},
        }

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> "LengthResult":
        """Read the JSON form."""
        kept = wire["kept"]
        if kept is not None and not isinstance(kept, list):
            raise TypeError("kept is not a list")
        return cls(
            kept=None if kept is None else np.array(kept, dtype=bool),
            **{kind: {n: unpacked64(a) for n, a in wire[kind].items()} for kind in _ARRAYS},
        )


_JUDGE_PART = TypeAdapter(JudgeResult)

_ARRAYS = ("added", "multiplied", "changed", "advantages", "history")


@dataclass(frozen=True)
class PartialResults:
    """The results of a batch that arrived, in order and without duplicates."""

    judges: dict[int, JudgeResult]
    """By chunk, in the order of the chunks."""
    length: LengthResult | None
    remarks: list[str]
    """Duplicates and reordering, for the log."""


def read_results(parts: Iterable[Mapping[str, Any]]) -> PartialResults:
    """Read the results of header tasks in any order; the first of duplicates counts.

    Raises:
        MessageRefused: a result is of another version.
    """
    try:
        return _sorted_out(parts)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise MessageRefused(
            f"a part is of another version ({type(error).__name__}: {str(error)[:200]});"
            " run the same release of Oyer on all workers"
        ) from error


def missing_chunks(manifest: Manifest, parts: Mapping[int, JudgeResult]) -> list[int]:
    """Return the chunks of a batch whose verdicts did not arrive."""
    return [k for k in range(len(manifest.chunks)) if k not in parts]


def check_results(
    manifest: Manifest, parts: Mapping[int, JudgeResult], length: LengthResult | None = None
) -> None:
    """Check that there is one verdict per rollout and judge.

    Raises:
        BatchFailed: a chunk's verdicts are missing; the trainer resubmits the batch.
        MessageRefused: a result has too few or too many rows.
    """
    late = missing_chunks(manifest, parts)
    if late:
        raise BatchFailed(
            f"batch {manifest.batch_id}: chunks {late[:10]} did not arrive; submit it again"
        )
    if len(parts) > len(manifest.chunks):
        raise MessageRefused(
            f"batch {manifest.batch_id} has {len(manifest.chunks)} chunks, and verdicts of others"
            f" came as well: {sorted(parts)[:10]}; run the same release of Oyer on all workers"
        )
    judges = [judge["name"] for judge in manifest.plan["judges"]]
    for k, (_, count) in enumerate(manifest.chunks):
        scores, statuses = parts[k].scores, parts[k].statuses
        if len(parts[k].turn_scores) not in (0, count) or any(
            len(scores.get(name, ())) != count or len(statuses.get(name, ())) != count
            for name in judges
        ):
            raise MessageRefused(
                f"chunk {k} of batch {manifest.batch_id} has not one verdict of each judge for"
                " each rollout; run the same release of Oyer on all workers"
            )
    if length is not None and any(len(array) != manifest.size for array in length.arrays):
        raise MessageRefused(
            f"length terms of batch {manifest.batch_id} are not one for each of its"
            f" {manifest.size} rollouts; run the same release of Oyer on all workers"
        )


def _sorted_out(parts: Iterable[Mapping[str, Any]]) -> PartialResults:
    judges: dict[int, JudgeResult] = {}
    length: LengthResult | None = None
    repeated: list[str] = []
    for part in parts:
        if part.get("part") == "judge":
            usage = part.get("usage") or {}
            fields = {name: value for name, value in part.items() if name not in ("part", "usage")}
            fields |= {name: usage[name] for name in ("latencies_ms", "reasons") if name in usage}
            read = _JUDGE_PART.validate_python(fields)
            if judges.setdefault(read.chunk, read) is not read:
                repeated.append(f"chunk {read.chunk}")
        elif part.get("part") == "length":
            if length is None:
                length = LengthResult.from_wire(part)
            else:
                repeated.append("length terms")
        else:
            raise ValueError(f"kind {part.get('part')!r}")
    ordered = dict(sorted(judges.items()))
    remarks = []
    if repeated:
        remarks.append(f"{', '.join(repeated)} arrived again: the first counts")
    if list(ordered) != list(judges):
        remarks.append(f"chunks arrived as {list(judges)}: put in order")
    return PartialResults(ordered, length, remarks)
