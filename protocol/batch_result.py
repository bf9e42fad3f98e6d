"""The result of a batch, and its encoding for the result backend.

Arrays are base64 of little-endian float32: exact, compact, and NaN survives JSON.
"""

import base64
import math
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from oyer.protocol.errors import MessageRefused
from oyer.protocol.packing import WIRE_VERSION

Float32s = NDArray[np.float32]
T = TypeVar("T")

CriteriaOfRow = dict[str, list[dict[str, Any]]]
"""By judge, the verdict on each criterion of one rollout: `name`, `value` (0 to 1; None if missing),
`verdict` (true, false or a choice), `reason`, `weight` (negative for a pitfall, where met is bad)."""

UNNAMED = re.compile(r"criterion_[0-9]+")
"""Names given to criteria whose format has none: `criterion_1`, … in their order."""

USAGE = ("calls", "prompt_tokens", "completion_tokens", "cost_usd")
"""Names of the usage amounts of a batch."""

_ADVANTAGE = "advantage:"
_HISTORY = "history:"
_SCORE = "score:"
"""Prefixes of names in `rewards.terms`; other names contain a colon only for a judge."""


@dataclass(frozen=True, kw_only=True)
class BatchResult:
    """A batch's rewards, `[N]` each, in the order submitted."""

    batch_id: str
    rewards: Float32s
    unshaped_rewards: Float32s
    judge_scores: Float32s
    mask: NDArray[np.bool_]
    statuses: list[str]
    terms: dict[str, Float32s]
    usage: dict[str, float]
    """calls, prompt_tokens, completion_tokens, cost_usd."""
    first_errors: dict[str, str]
    """For each failed status, the first error seen."""
    advantages: dict[str, Float32s] = field(default_factory=dict)
    """Advantages that length methods compute, by name."""
    history: dict[str, Float32s] = field(default_factory=dict)
    """New histories of length methods with state, by name."""
    cancelled: str | None = None
    """Who cancelled the batch, and why; None if it was not cancelled."""
    scores: dict[str, Float32s] = field(default_factory=dict)
    """Each judge's scores as they came, by judge; NaN where missing."""
    groups: list[int] = field(default_factory=list)
    """Number of each row's group, -1 without one; empty if unknown."""
    criteria: list[CriteriaOfRow] = field(default_factory=list)
    """`[N]`, or empty without judges that give verdicts on criteria."""
    turn_scores: list[list[float | None]] = field(default_factory=list)
    """`[N]`, the score after each turn, None where missing; empty without `view: each_turn`."""
    judge_latency_ms: dict[str, float] = field(default_factory=dict)
    """`p50` and `p95` of the judgements that were called for, in ms; empty if unknown."""
    reasons: dict[int, str] = field(default_factory=dict)
    """By row of `sampled_rows`, what its judges replied; rows without a reply are left out."""

    @property
    def counts(self) -> dict[str, int]:
        """Number of rollouts with each status."""
        return {s: self.statuses.count(s) for s in sorted(set(self.statuses))}

    @property
    def recorded(self) -> dict[str, Float32s]:
        """The values stored in `rewards.terms` by name: terms, advantages, histories and scores."""
        return {
            **self.terms,
            **{_ADVANTAGE + name: values for name, values in self.advantages.items()},
            **{_HISTORY + name: values for name, values in self.history.items()},
            **{_SCORE + name: values for name, values in self.scores.items()},
        }

    def to_wire(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "v": WIRE_VERSION,
            "batch_id": self.batch_id,
            "rewards": _packed(self.rewards),
            "unshaped_rewards": _packed(self.unshaped_rewards),
            "judge_scores": _packed(self.judge_scores),
            "mask": _packed(self.mask.astype(np.float32)),
            "statuses": self.statuses,
            "terms": {name: _packed(term) for name, term in self.terms.items()},
            "usage": self.usage,
            "first_errors": self.first_errors,
            "advantages": {name: _packed(values) for name, values in self.advantages.items()},
            "history": {name: _packed(values) for name, values in self.history.items()},
            "cancelled": self.cancelled,
            "scores": {name: _packed(values) for name, values in self.scores.items()},
            "groups": self.groups,
            "criteria": self.criteria,
            "turn_scores": self.turn_scores,
            "judge_latency_ms": self.judge_latency_ms,
            "reasons": {str(row): text for row, text in self.reasons.items()},
        }

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> "BatchResult":
        """Read the JSON form.

        Raises:
            MessageRefused: it is of another version, or damaged.
        """
        try:
            version = wire.get("v")
            if version == WIRE_VERSION:
                return cls._read(wire)
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise MessageRefused(
                f"result cannot be read: {repr(error)[:200]}; submit again"
            ) from error
        raise MessageRefused(
            f"result of version {version!r:.40}; this trainer reads version {WIRE_VERSION}:"
            " run the same release of Oyer on the trainer and the workers"
        )

    @classmethod
    def _read(cls, wire: Mapping[str, Any]) -> "BatchResult":
        statuses = [str(status) for status in wire["statuses"]]
        n = len(statuses)
        return cls(
            batch_id=str(wire["batch_id"]),
            rewards=_unpacked(wire["rewards"], n),
            unshaped_rewards=_unpacked(wire["unshaped_rewards"], n),
            judge_scores=_unpacked(wire["judge_scores"], n),
            mask=_unpacked(wire["mask"], n) > 0,
            statuses=statuses,
            terms=_unpacked_all(wire["terms"], n),
            usage={name: _amount(wire["usage"][name]) for name in USAGE},
            first_errors={str(s): str(error) for s, error in wire["first_errors"].items()},
            advantages=_unpacked_all(wire["advantages"], n),
            history=_unpacked_all(wire["history"], n),
            cancelled=_reason(wire.get("cancelled")),
            # Absent in results of earlier releases.
            scores=_unpacked_all(wire.get("scores") or {}, n),
            groups=_group_numbers(wire.get("groups") or [], n),
            criteria=_criteria(wire.get("criteria") or [], n),
            turn_scores=_turn_scores(wire.get("turn_scores") or [], n),
            judge_latency_ms={
                str(name): _amount(value)
                for name, value in (wire.get("judge_latency_ms") or {}).items()
            },
            reasons={int(row): str(text) for row, text in (wire.get("reasons") or {}).items()},
        )


class RecordedValues(NamedTuple, Generic[T]):
    """What `BatchResult.recorded` holds, by name."""

    terms: dict[str, T]
    advantages: dict[str, T]
    history: dict[str, T]
    scores: dict[str, T]


def split_recorded(recorded: Mapping[str, T]) -> RecordedValues[T]:
    """Split `BatchResult.recorded` by the kinds of values."""
    found: RecordedValues[T] = RecordedValues({}, {}, {}, {})
    kinds = {_ADVANTAGE: found.advantages, _HISTORY: found.history, _SCORE: found.scores}
    for name, values in recorded.items():
        prefix = next((prefix for prefix in kinds if name.startswith(prefix)), "")
        kinds.get(prefix, found.terms)[name.removeprefix(prefix)] = values
    return found


_OTHER_TERMS = ("base_score", "judge", "gate")
"""Terms of the reward that are neither a judge's score nor a length term, beside `judge:<name>`."""


def components_of(recorded: RecordedValues[T]) -> dict[str, T]:
    """Return each judge's score, length term and advantage, by name."""
    lengths = {
        name: values
        for name, values in {**recorded.terms, **recorded.advantages}.items()
        if name not in _OTHER_TERMS and not name.startswith("judge:")
    }
    return {**recorded.scores, **lengths}


def equal_groups(
    groups: Sequence[int], rewards: Float32s, trainable: NDArray[np.bool_]
) -> tuple[int, int]:
    """Count the groups of two or more trainable rollouts, and those of them whose rewards are all equal.

    Such a group has advantages of 0, so that nothing is learned from it.
    """
    members: dict[int, list[float]] = {}
    for group, reward, counts in zip(groups, rewards, trainable, strict=False):
        if group >= 0 and counts:
            members.setdefault(group, []).append(float(reward))
    compared = [values for values in members.values() if len(values) > 1]
    return len(compared), sum(max(values) == min(values) for values in compared)


MAX_SAMPLED_ROWS, MAX_REASON_CHARS = 64, 1000
"""Most rows of a batch whose judges' replies are returned with it, and most characters of each row."""


def sampled_rows(batch_id: str, size: int) -> list[int]:
    """Return a random sample of a batch's rows, the same in every process, in random order."""
    return random.Random(batch_id).sample(range(size), min(size, MAX_SAMPLED_ROWS))


def number_groups(group_ids: Sequence[Any]) -> list[int]:
    """Number the groups of a batch in order of appearance; -1 for a row without a group."""
    numbers: dict[Any, int] = {}
    return [-1 if one is None else numbers.setdefault(one, len(numbers)) for one in group_ids]


def _group_numbers(values: Any, n: int) -> list[int]:
    if not isinstance(values, list) or len(values) not in (0, n):
        raise ValueError(f"{len(values)} group numbers for {n} rollouts")
    return [int(value) for value in values]


def _criteria(rows: Any, n: int) -> list[CriteriaOfRow]:
    if not isinstance(rows, list) or len(rows) not in (0, n):
        raise ValueError(f"criteria of {len(rows)} rollouts, not {n}")
    return [
        {str(judge): [dict(one) for one in found] for judge, found in row.items()} for row in rows
    ]


def _turn_scores(rows: Any, n: int) -> list[list[float | None]]:
    if not isinstance(rows, list) or len(rows) not in (0, n):
        raise ValueError(f"turn scores of {len(rows)} rollouts, not {n}")
    return [[None if score is None else _amount(score) for score in row] for row in rows]


def criterion_columns(rows: Sequence[CriteriaOfRow]) -> dict[str, Float32s]:
    """Return the value of each criterion as a column `<judge>/<criterion>`; NaN where missing.

    Criteria whose data format has no names are left out: `criterion_1` of two prompts is not the same.
    """
    columns: dict[str, Float32s] = {}
    for i, row in enumerate(rows):
        for judge, found in row.items():
            for one in found:
                if UNNAMED.fullmatch(one["name"]):
                    continue
                name = f"{judge}/{one['name']}"
                column = columns.setdefault(name, np.full(len(rows), np.nan, dtype=np.float32))
                if one["value"] is not None:
                    column[i] = one["value"]
    return columns


def _packed(values: NDArray[Any] | Sequence[float]) -> str:
    return base64.b64encode(np.asarray(values, dtype="<f4").tobytes()).decode()


def _unpacked(text: str, n: int) -> Float32s:
    values = np.frombuffer(base64.b64decode(text, validate=True), dtype="<f4").astype(np.float32)
    if len(values) != n:
        raise ValueError(f"{len(values)} values for {n} rollouts")
    return values


def _unpacked_all(texts: Mapping[str, str], n: int) -> dict[str, Float32s]:
    return {str(name): _unpacked(text, n) for name, text in texts.items()}


def _reason(value: Any) -> str | None:
    if value is not None and not isinstance(value, str):
        raise ValueError("cancelled is text or null")
    return value


def _amount(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError("usage and turn scores are finite numbers")
    return value


def packed64(values: NDArray[np.float64]) -> str:
    """Encode float64 values as base64 of their little-endian bytes."""
    return base64.b64encode(values.astype("<f8").tobytes()).decode()


def unpacked64(text: str) -> NDArray[np.float64]:
    """Decode the result of `packed64`."""
    return np.frombuffer(base64.b64decode(text, validate=True), dtype="<f8").astype(np.float64)
