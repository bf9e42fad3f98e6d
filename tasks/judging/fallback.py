"""Which groups another model judges in a judge's place: a whole group or none of it; pure.

GRPO compares the rollouts of a group with each other, so all of its scores are one model's.
"""

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass

from oyer.protocol.status import NOT_CALLED, Status
from oyer.tasks.judging.aggregate import Verdict

_FINE = frozenset({Status.SCORED, *NOT_CALLED})
_HOPELESS = frozenset({Status.EXPIRED, Status.OVER_BUDGET})
"""Failures that another model would meet as well."""

NOT_APPLIED = "; no fall-back, since the group's rollouts are not in one chunk"
"""What the row of a failed judgement says then."""


@dataclass(frozen=True)
class ChunkGroups:
    """The groups of one chunk, by the places of their rollouts in the batch."""

    whole: list[list[int]]
    split: frozenset[int]
    """Places of rollouts whose group goes on in another chunk."""


def groups_in(group_ids: Sequence[str | None], start: int, split: Collection[str]) -> ChunkGroups:
    """Find a chunk's groups; a rollout without a group is one of its own.

    Args:
        group_ids: of the chunk's rollouts.
        start: place of the first one in its batch.
        split: groups that are in several chunks.
    """
    members: dict[Hashable, list[int]] = {}
    parts = set()
    for place, group_id in enumerate(group_ids, start=start):
        if group_id in split:
            parts.add(place)
        else:
            members.setdefault(("alone", place) if group_id is None else group_id, []).append(place)
    return ChunkGroups(list(members.values()), frozenset(parts))


def groups_in_need(groups: ChunkGroups, verdicts: Mapping[int, Verdict]) -> list[list[int]]:
    """Name the whole groups on which the judge failed in a way that another model might not."""
    return [
        group
        for group in groups.whole
        if any(verdicts[i].status not in _FINE | _HOPELESS for i in group)
    ]


def replaced(
    own: Mapping[int, Verdict], others: Mapping[int, Verdict], groups: Sequence[Sequence[int]]
) -> dict[int, Verdict]:
    """Take the other model's verdicts on each group on which it failed less often."""
    chosen = dict(own)
    for group in groups:
        if _failures(others, group) < _failures(own, group):
            chosen.update({i: others[i] for i in group})
    return chosen


def _failures(verdicts: Mapping[int, Verdict], group: Sequence[int]) -> int:
    return sum(verdicts[i].status not in _FINE for i in group)
