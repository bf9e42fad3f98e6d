"""Neutral numbers for missing rewards, where a trainer takes nothing but numbers."""

import math
from collections import OrderedDict, deque
from collections.abc import Hashable, Iterable

from oyer.config.reward import RewardConfig
from oyer.manager.score import Score
from oyer.protocol.status import SETTLED

MAX_GROUPS = 4096
"""Groups whose rewards are kept for stand-ins; the oldest are dropped."""

RECENT_REWARDS = 256
"""Latest rewards whose mean stands in where no reward of the group is known."""


def is_missing(score: Score) -> bool:
    """Whether a rollout was not judged, so that its reward, if any, is a substitute."""
    return not score.trainable or score.status not in SETTLED


def with_neutral_rows(config: RewardConfig, group_size: int | None) -> RewardConfig:
    """Replace `on_missing: skip` by `group_mean` for a trainer that takes nothing but numbers.

    Needs the size of a group, because its mean is known only once all its rollouts are judged.
    """
    if group_size is None or config.reward.on_missing != "skip":
        return config
    rules = config.reward.model_copy(update={"on_missing": "group_mean"})
    return config.model_copy(update={"reward": rules})


class StandIns:
    """The rewards of a process's groups, and the numbers that replace missing ones."""

    def __init__(self, fixed: float | None = None) -> None:
        self._fixed = fixed
        self._groups: OrderedDict[Hashable, list[float]] = OrderedDict()
        self._recent: deque[float] = deque(maxlen=RECENT_REWARDS)

    def add(self, group: Hashable, scores: Iterable[Score]) -> None:
        """Keep the rewards of judged rollouts."""
        rewards = [score.reward for score in scores if not is_missing(score)]
        self._groups.setdefault(group, []).extend(rewards)
        self._groups.move_to_end(group)
        self._recent.extend(rewards)
        while len(self._groups) > MAX_GROUPS:
            self._groups.popitem(last=False)

    def reward(self, group: Hashable) -> float:
        """Return the number for a missing reward.

        The mean of the group's rewards so far, because it favours neither side of the comparison;
        else the mean of the latest rewards; else 0. A number that the user chose replaces all.
        """
        if self._fixed is not None:
            return self._fixed
        known = self._groups.get(group) or self._recent
        return math.fsum(known) / len(known) if known else 0.0
