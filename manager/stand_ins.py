"""Neutral numbers for missing rewards, where a trainer takes nothing but numbers."""

import math
from collections import OrderedDict, deque
from collections.abc import Hashable, Iterable, Sequence
from statistics import fmean

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


def with_group_mean(config: RewardConfig) -> RewardConfig:
    """Return the configuration with `on_missing: group_mean` instead of `skip`.

    For trainers that cannot leave a rollout out. The size of a group must be known, because its mean is
    known only once all its rollouts are judged. It fills in scores of pointwise judges: a group has all
    scores of a group judge or none.
    """
    if config.reward.on_missing != "skip" or not config.judges:
        return config
    rules = config.reward.model_copy(update={"on_missing": "group_mean"})
    return config.model_copy(update={"reward": rules})


def group_means(groups: Sequence[Hashable], values: Sequence[float]) -> list[float]:
    """Return the mean of the finite values of each row's group, `[N]`; NaN if it has none.

    Args:
        groups: `[N]`.
        values: `[N]`, NaN where one is missing.
    """
    known: dict[Hashable, list[float]] = {}
    for group, value in zip(groups, values, strict=True):
        if math.isfinite(value):
            known.setdefault(group, []).append(value)
    means = {group: fmean(found) for group, found in known.items()}
    return [means.get(group, math.nan) for group in groups]


def mean_judge_score(score: Score, config: RewardConfig) -> float:
    """Return the judges' mean scores over the rollout's group, weighted as `Score.judge_score` is.

    Judges without any score in the group are left out; NaN if all are.
    """
    means = [(score.component_means.get(name, math.nan), w) for name, w in judge_weights(config)]
    known = [(mean, weight) for mean, weight in means if math.isfinite(mean)]
    return fmean(*zip(*known, strict=True)) if known else math.nan


def judge_weights(config: RewardConfig) -> list[tuple[str, float]]:
    """Return the judges that `Score.judge_score` averages, with their weights."""
    weighted = [(judge.name, abs(judge.weight)) for judge in config.judges if judge.weight]
    return weighted or [(judge.name, 1.0) for judge in config.judges]


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
