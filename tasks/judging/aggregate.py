"""Aggregates a judge's samples to one verdict, and applies a judge's fallback by group; pure.

GRPO compares the rollouts of a group with each other, so all scores of a group come from one model:
a fallback judges a whole group or none of it.
"""

import statistics
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from oyer.config.reward import JudgeConfig
from oyer.models.rows import JudgementRow
from oyer.protocol.status import NOT_CALLED, SETTLED, Status

_NO_FALLBACK = SETTLED | {Status.EXPIRED, Status.OVER_BUDGET}
"""A fallback's calls would meet the same deadline and the same budget."""

FALLBACK_NOT_APPLIED = "; no fall-back, since the group's rollouts are not in one chunk"
"""Appended to the error of a failed judgement on record."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One judge's verdict on one rollout."""

    score: float | None
    """Normalized, if the judge says so; None without a score."""
    status: str
    error: str | None
    """Why there is no score."""
    criteria: list[dict[str, Any]] = field(default_factory=list)
    """The result on each criterion: `name`, `value`, `verdict`, `reason`, `weight`."""
    turn_scores: list[float | None] = field(default_factory=list)
    """The score after each turn, None where missing; empty unless the judge's view is `each_turn`."""


def aggregate(samples: Sequence[JudgementRow], judge: JudgeConfig) -> Verdict:
    """Return the mean or median of the scored samples, if at least `min_valid` are scored.

    Samples that the budget refused do not count towards `min_valid`. Without enough scored samples
    the verdict has the status of the first failed one.
    """
    first = samples[0]
    if first["status"] in NOT_CALLED:
        decided = first.get("score")
        return Verdict(None if decided is None else judge.counted(decided), first["status"], None)
    scores = [
        row["score"]
        for row in samples
        if row["status"] == Status.SCORED and row["score"] is not None
    ]
    asked = sum(row["status"] != Status.OVER_BUDGET for row in samples)
    if len(scores) >= max(1, min(judge.min_valid, asked)):
        take = statistics.fmean if judge.aggregate == "mean" else statistics.median
        return Verdict(judge.counted(take(scores)), Status.SCORED, None)
    failed = next(row for row in samples if row["status"] != Status.SCORED)
    return Verdict(None, failed["status"], failed.get("error"))


@dataclass(frozen=True)
class ChunkGroups:
    """The groups of one chunk, by the indices of their rollouts in the batch."""

    whole: list[list[int]]
    split: frozenset[int]
    """Rollouts whose group is in several chunks."""


def chunk_groups(
    group_ids: Sequence[str | None], start: int, split: Collection[str]
) -> ChunkGroups:
    """Find a chunk's groups; a rollout without a group id forms its own.

    Args:
        group_ids: of the chunk's rollouts.
        start: index of the first one in its batch.
        split: groups that are in several chunks.
    """
    members: dict[Hashable, list[int]] = {}
    parts = set()
    for index, group_id in enumerate(group_ids, start=start):
        if group_id in split:
            parts.add(index)
        else:
            members.setdefault(("alone", index) if group_id is None else group_id, []).append(index)
    return ChunkGroups(list(members.values()), frozenset(parts))


def groups_to_fall_back(groups: ChunkGroups, verdicts: Mapping[int, Verdict]) -> list[list[int]]:
    """Return the whole groups with a failure that another model might not have."""
    return [
        group
        for group in groups.whole
        if any(verdicts[i].status not in _NO_FALLBACK for i in group)
    ]


def with_fallback(
    verdicts: Mapping[int, Verdict],
    fallback: Mapping[int, Verdict],
    groups: Sequence[Sequence[int]],
) -> dict[int, Verdict]:
    """Replace the verdicts of each group on which the fallback failed less often."""
    chosen = dict(verdicts)
    for group in groups:
        if _failures(fallback, group) < _failures(verdicts, group):
            chosen.update({i: fallback[i] for i in group})
    return chosen


def _failures(verdicts: Mapping[int, Verdict], group: Sequence[int]) -> int:
    return sum(verdicts[i].status not in SETTLED for i in group)
