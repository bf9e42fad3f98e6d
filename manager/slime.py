"""slime adapter: reward functions for `--custom-rm-path`, and the reward post-process.

    --custom-rm-path oyer.manager.slime.custom_rm
    --custom-reward-post-process-path oyer.manager.slime.post_process

- `OYER_CONFIG` names the configuration file; the other settings come from slime's arguments.
- slime has no missing reward: the sample gets a number, `remove_sample` excludes it from the loss,
  `post_process` from its group's mean, and `metadata["judge_status"]` has the reason.
"""

import os
import statistics
import uuid
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from celery.utils.log import get_logger

from oyer.config.loading import CONFIG_VARIABLE, load_config
from oyer.manager.adapters import NeededFields, OutageBreaker, as_number, filed_under, one_by_one
from oyer.manager.client import RewardManager
from oyer.manager.score import Score, without_reward
from oyer.manager.streaming.identity import GROUP_TIMEOUT_S
from oyer.protocol.content import plain_messages
from oyer.protocol.errors import InvalidRollout
from oyer.protocol.rollout import Rollout

log = get_logger(__name__)

TIMEOUT_S = 600.0
"""Default of `args.oyer_timeout_s`, the longest wait for a reward, in seconds."""

_STD_FLOOR = 1e-6
"""Added to a group's standard deviation, as in slime."""

_SCALED = ("grpo", "gspo", "cispo", "sapo")
_CENTRED = (*_SCALED, "reinforce_plus_plus_baseline")
"""Advantage estimators for which slime subtracts the group's mean; for `_SCALED` it also divides by
the standard deviation. `sapo` is from Relax."""


async def custom_rm(args: Any, sample: Any, **_: Any) -> Any:
    """Score a sample or a list; returns numbers, or dicts under slime's `--reward-key`."""
    if isinstance(sample, Sequence):
        return await group_rm(args, sample)
    size = 1 if sample.group_index is None else getattr(args, "n_samples_per_prompt", None)
    return (await _scored(args, [sample], group_size=size))[0]


async def group_rm(args: Any, samples: Sequence[Any], **_: Any) -> list[Any]:
    """Score the samples of one prompt, for `--group-rm`."""
    return await _scored(args, samples, group_size=None)


def post_process(args: Any, samples: Sequence[Any]) -> tuple[list[float], list[float]]:
    """Normalise rewards per group as slime does, but without samples that have no reward.

    Samples of one attempt share a `rollout_id` and count once in their group.

    Returns:
        Raw and normalised rewards; a sample without a reward has the normalised reward 0.
    """
    raw = [float(_value(args, sample.reward)) for sample in samples]
    estimator = getattr(args, "advantage_estimator", "grpo")
    if estimator not in _CENTRED or not getattr(args, "rewards_normalization", True):
        return raw, list(raw)
    groups: dict[Any, list[int]] = defaultdict(list)
    size = getattr(args, "n_samples_per_prompt", None) or len(samples)
    for i, sample in enumerate(samples):
        if not sample.remove_sample:
            # A custom rollout function may leave `group_index` out.
            place = ("place", i // size)
            groups[place if sample.group_index is None else sample.group_index].append(i)
    normalised = [0.0] * len(raw)
    scaled = estimator in _SCALED and getattr(args, "grpo_std_normalization", True)
    for rows in groups.values():
        attempts = _attempts({i: (samples[i], raw[i]) for i in rows})
        mean = statistics.fmean(attempts)
        compared = scaled and len(attempts) > 1
        divisor = statistics.stdev(attempts) + _STD_FLOOR if compared else 1.0
        for i in rows:
            normalised[i] = (raw[i] - mean) / divisor
    return raw, normalised


def _attempts(rows: Mapping[int, tuple[Any, float]]) -> list[float]:
    """Return one reward per attempt: the highest of its samples, as in slime."""
    rewards: dict[Any, float] = {}
    for i, (sample, reward) in rows.items():
        rollout_id = getattr(sample, "rollout_id", None)
        key = ("row", i) if rollout_id is None else ("rollout", rollout_id)
        rewards[key] = max(rewards.get(key, reward), reward)
    return list(rewards.values())


def missing_reward(sample: Any, score: Score, stand_in: float) -> float:
    """Return the reward, or `stand_in` if there is none; then exclude the sample from the loss."""
    sample.metadata = {**(sample.metadata or {}), "judge_status": score.status}
    if score.trainable:
        return score.reward
    sample.remove_sample = True
    return stand_in


async def _scored(args: Any, samples: Sequence[Any], group_size: int | None) -> list[Any]:
    if not samples:
        # slime calls with no samples if a custom generate function has set every reward.
        return []
    timeout_s = float(getattr(args, "oyer_timeout_s", TIMEOUT_S))
    manager, outages = _manager(os.getpid(), os.environ.get(CONFIG_VARIABLE), timeout_s)
    rules = manager.config.reward
    stand_in = float(getattr(args, "oyer_missing_reward", 0.0))
    run = getattr(args, "oyer_run", None)
    where = filed_under(None if run is None else str(run), "slime", manager)
    needed = NeededFields.of(manager.config)
    # slime sets no group index in evaluation; the samples of one call form a group.
    default_group = uuid.uuid4().hex
    rollouts = [_rollout(sample, needed, default_group) for sample in samples]
    try:
        # The index distinguishes samples of a group with equal text.
        identity = str(samples[0].index) if len(samples) == 1 else None
        pending = manager.score_many(
            rollouts,
            **where,
            # Two trainings that name the same run both number groups from 0.
            one_prompt=True,
            group_size=group_size,
            sample_id=identity,
            group_timeout_s=float(getattr(args, "oyer_group_timeout_s", GROUP_TIMEOUT_S)),
        )
        scores = await pending.gather(timeout_s, rules)
    except InvalidRollout as error:
        scores = [without_reward(error, rules)] * len(samples)
    outages.count(scores)
    rewards = []
    for sample, score in zip(samples, scores, strict=True):
        if not score.trainable:
            log.warning("a sample has no reward (%s): %s", score.status, score.error)
        rewards.append(
            _as_slime_reward(args, sample, missing_reward(sample, score, stand_in), score)
        )
    return rewards


def _rollout(sample: Any, needed: NeededFields, default_group: str) -> Rollout:
    metadata = sample.metadata or {}
    status = str(getattr(sample.status, "value", sample.status))
    return Rollout(
        prompt=plain_messages(sample.prompt),
        response=sample.response,
        group_id=default_group if sample.group_index is None else str(sample.group_index),
        base_score=as_number(metadata.get("base_score")),
        response_tokens=_policy_tokens(sample),
        token_ids=_policy_token_ids(sample) if needed.token_ids else None,
        truncated=status == "truncated",
        reference=None if sample.label is None else str(sample.label),
        metadata=needed.metadata_of(metadata),
    )


def _policy_tokens(sample: Any) -> int:
    """Count the tokens that the policy wrote, i.e. those in `loss_mask`, as slime's metrics do."""
    mask = getattr(sample, "loss_mask", None)
    return int(sample.response_length if mask is None else sum(map(bool, mask)))


def _policy_token_ids(sample: Any) -> list[int]:
    """Return the response's token ids without those outside `loss_mask`, e.g. of tools."""
    length = sample.response_length
    ids = list(sample.tokens[len(sample.tokens) - length :])
    mask = getattr(sample, "loss_mask", None)
    if mask is None or len(mask) != len(ids):
        return ids
    return [token for token, own in zip(ids, mask, strict=True) if own]


def _as_slime_reward(args: Any, sample: Any, reward: float, score: Score) -> Any:
    """Return the number, or a dict with it if `--reward-key` is set."""
    keys = {getattr(args, "reward_key", None)}
    if sample.group_index is None:
        keys.add(getattr(args, "eval_reward_key", None))
    named = dict.fromkeys(keys - {None, ""}, reward)
    if not named:
        return reward
    return {"judge_score": score.judge_score, "judge_status": score.status, **named}


def _value(args: Any, reward: Any) -> Any:
    key = getattr(args, "reward_key", None)
    return reward[key] if key else reward


@lru_cache(maxsize=8)
def _manager(pid: int, path: str | None, timeout_s: float) -> tuple[RewardManager, OutageBreaker]:
    streamed, outages = one_by_one(load_config(path), timeout_s)
    return RewardManager(streamed), outages
