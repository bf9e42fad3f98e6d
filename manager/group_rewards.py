"""Rewards of whole groups for trainers whose rewards are plain numbers, without NaN or None."""

import math
import uuid
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Unpack

from oyer.config.reward import RewardConfig, RewardRules
from oyer.manager import validation
from oyer.manager.adapters import component_columns, component_names
from oyer.manager.client import RewardManager
from oyer.manager.score import Score, without_reward
from oyer.manager.stand_ins import group_means, is_missing
from oyer.manager.streaming.identity import ScoreOptions
from oyer.protocol.rollout import Rollout

TIMEOUT_S = 600.0
"""Default time that `group_rewards` waits for the scores, in seconds."""


@dataclass(frozen=True, kw_only=True)
class GroupReward:
    """The reward of one rollout and its metrics, all of them finite."""

    reward: float
    """Neutral if the rollout has no score: see `neutral_rewards`."""
    judged: bool
    """False if the reward is not the rollout's own; exclude it from training if you can. True also for
    `on_missing: value`."""
    score: Score
    """What the backend returned."""
    metrics: dict[str, float] = field(default_factory=dict)
    """`oyer/<judge or term>` and `…_present`, the same keys for every rollout, and `oyer/missing`."""


def neutral_rewards(scores: Sequence[Score], own: Sequence[float] | None = None) -> list[float]:
    """Return the rewards of one group; a missing one neither raises nor lowers the rollout.

    A rollout without a reward gets the mean of the group's others, so that its advantage is 0 and
    theirs do not change. If no rollout of the group has one, all get 0.

    Args:
        scores: of one group.
        own: rewards that the trainer adds to these, e.g. of its environment, one per score; the
            mean is then that of the sums.
    """
    added = [0.0] * len(scores) if own is None else list(own)
    return _neutral(scores, added, [None] * len(scores))


def _neutral(
    scores: Sequence[Score], added: Sequence[float], groups: Sequence[Hashable]
) -> list[float]:
    sums = [
        score.reward + plus if score.trainable else math.nan
        for score, plus in zip(scores, added, strict=True)
    ]
    return [
        score.reward if score.trainable else mean - plus if math.isfinite(mean) else 0.0
        for score, plus, mean in zip(scores, added, group_means(groups, sums), strict=True)
    ]


async def group_rewards(
    manager: RewardManager,
    rollouts: Sequence[Rollout],
    *,
    own: Sequence[float] | None = None,
    timeout_s: float = TIMEOUT_S,
    **options: Unpack[ScoreOptions],
) -> list[GroupReward]:
    """Score rollouts; those with one `Rollout.group_id` are a group, complete in this call.

    Args:
        manager: of a running backend.
        rollouts: of one or several groups.
        own: see `neutral_rewards`.
        timeout_s: how long to wait; a later score counts as missing. With `group_size`, its reward
            is 0, as is that of a rollout that cannot be read: exclude it by `judged`.
        options: of `RewardManager.score_many`. With `group_size`, groups come in several calls; use
            `stand_ins.with_group_mean` then, because this call does not know the siblings' rewards.

    Raises:
        OyerError: the failure policy raises (`reward.on_missing: raise`, `max_failed_fraction`).
    """
    sent, scores = _readable(manager, rollouts)
    for row in scores:
        _close_for(manager, rollouts[row], options)
    if sent:
        pending = manager.score_many([rollouts[row] for row in sent], **options)
        settled = await pending.gather(timeout_s, manager.config.reward)
        scores.update(zip(sent, settled, strict=True))
    in_order = [scores[row] for row in range(len(rollouts))]
    return _rewards_of(manager.config, rollouts, in_order, own)


def _rewards_of(
    config: RewardConfig,
    rollouts: Sequence[Rollout],
    scores: Sequence[Score],
    own: Sequence[float] | None,
) -> list[GroupReward]:
    groups = [
        ("row", i) if one.group_id is None else one.group_id for i, one in enumerate(rollouts)
    ]
    rewards = _neutral(scores, [0.0] * len(scores) if own is None else own, groups)
    columns = component_columns(scores, names=component_names(config))
    return [
        GroupReward(
            reward=rewards[row],
            judged=judged,
            score=scores[row],
            metrics={name: values[row] for name, values in columns.items()}
            | {"oyer/missing": float(not judged)},
        )
        for row, judged in enumerate(_has_own(score, config.reward) for score in scores)
    ]


def _has_own(score: Score, rules: RewardRules) -> bool:
    """Whether the reward is the rollout's own, or the value that the user chose for a missing one."""
    return not is_missing(score) or (score.trainable and rules.on_missing == "value")


def _close_for(manager: RewardManager, rollout: Rollout, options: ScoreOptions) -> None:
    """Let the siblings in other calls not wait for a rollout that cannot be scored."""
    group_id = rollout.group_id
    if options.get("group_size") is None or group_id is None:
        return
    name = options.get("sample_id") or uuid.uuid4().hex
    manager.close_groups([group_id], absent=[name], **options)


def _readable(
    manager: RewardManager, rollouts: Sequence[Rollout]
) -> tuple[list[int], dict[int, Score]]:
    """Return the rows that can be submitted, and the scores of those that cannot."""
    rules = manager.config.reward
    refused = validation.refused_rows(rollouts, manager.config)
    scores = {row: without_reward(error, rules) for row, error in refused.items()}
    return [row for row in range(len(rollouts)) if row not in refused], scores
