"""Rewards of whole groups for trainers whose rewards are plain numbers, without NaN or None."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Unpack

from oyer.manager import validation
from oyer.manager.adapters import component_columns
from oyer.manager.client import RewardManager
from oyer.manager.score import Score, without_reward
from oyer.manager.streaming.identity import ScoreOptions
from oyer.protocol.errors import InvalidRollout
from oyer.protocol.rollout import Rollout

TIMEOUT_S = 600.0
"""Default time that `group_rewards` waits for the scores, in seconds."""


@dataclass(frozen=True, kw_only=True)
class GroupReward:
    """The reward of one rollout and its metrics, all of them finite."""

    reward: float
    """Neutral if the rollout has no score: see `neutral_rewards`."""
    judged: bool
    """False if the rollout has no reward of its own; exclude it from training if you can."""
    score: Score
    """What the backend returned."""
    metrics: dict[str, float] = field(default_factory=dict)
    """`oyer/<judge or term>` and `…_present`, the same keys for every rollout, and `oyer/missing`."""


def neutral_rewards(
    scores: Sequence[Score], own: Sequence[float] | None = None
) -> list[float]:
    """Return the rewards of one group; a missing one neither raises nor lowers the rollout.

    A rollout without a reward gets the mean of the group's others, so that its advantage is 0 and
    theirs do not change. If no rollout of the group has one, all get 0.

    Args:
        scores: of one group.
        own: rewards that the trainer adds to these, e.g. of its environment, one per score; the
            mean is then that of the sums.
    """
    added = [0.0] * len(scores) if own is None else list(own)
    sums = [
        score.reward + plus for score, plus in zip(scores, added, strict=True) if score.trainable
    ]
    if not sums:
        return [0.0] * len(scores)
    mean = fmean(sums)
    return [
        score.reward if score.trainable else mean - plus
        for score, plus in zip(scores, added, strict=True)
    ]


async def group_rewards(
    manager: RewardManager,
    rollouts: Sequence[Rollout],
    *,
    own: Sequence[float] | None = None,
    timeout_s: float = TIMEOUT_S,
    **options: Unpack[ScoreOptions],
) -> list[GroupReward]:
    """Score rollouts, whose groups are complete in this call, by `Rollout.group_id`.

    Args:
        manager: of a running backend.
        rollouts: of one or several groups.
        own: see `neutral_rewards`.
        timeout_s: how long to wait; a later score counts as missing.
        options: run, step, split of `RewardManager.score_many`.

    Raises:
        OyerError: the failure policy raises (`reward.on_missing: raise`, `max_failed_fraction`).
    """
    sent, scores = _readable(manager, rollouts)
    pending = manager.score_many([rollouts[row] for row in sent], **options)
    settled = await pending.gather(timeout_s, manager.config.reward)
    scores.update(zip(sent, settled, strict=True))
    return rewards_of(rollouts, [scores[row] for row in range(len(rollouts))], own)


def rewards_of(
    rollouts: Sequence[Rollout], scores: Sequence[Score], own: Sequence[float] | None = None
) -> list[GroupReward]:
    """Return the rewards and metrics of scored rollouts; see `group_rewards`."""
    rewards = [math.nan] * len(scores)
    groups: dict[str | int | None, list[int]] = {}
    for row, rollout in enumerate(rollouts):
        groups.setdefault(rollout.group_id, []).append(row)
    for rows in groups.values():
        added = None if own is None else [own[row] for row in rows]
        neutral = neutral_rewards([scores[row] for row in rows], added)
        for row, reward in zip(rows, neutral, strict=True):
            rewards[row] = reward
    columns = component_columns(scores)
    return [
        GroupReward(
            reward=rewards[row],
            judged=score.trainable,
            score=score,
            metrics={
                **{name: values[row] for name, values in columns.items()},
                "oyer/missing": float(not score.trainable),
            },
        )
        for row, score in enumerate(scores)
    ]


def _readable(
    manager: RewardManager, rollouts: Sequence[Rollout]
) -> tuple[list[int], dict[int, Score]]:
    """Return the rows that can be submitted, and the scores of those that cannot."""
    sent: list[int] = []
    refused: dict[int, Score] = {}
    for row, rollout in enumerate(rollouts):
        try:
            validation.check([rollout], manager.config)
        except InvalidRollout as error:
            refused[row] = without_reward(error, manager.config.reward)
        else:
            sent.append(row)
    return sent, refused
