"""The reward functions: score samples one by one or in groups."""

import asyncio
import math
import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from celery.utils.log import get_logger

from oyer.config.loading import CONFIG_VARIABLE, load_config
from oyer.manager.adapters import (
    NeededFields,
    OutageBreaker,
    component_columns,
    component_names,
    filed_under,
    one_by_one,
)
from oyer.manager.client import RewardManager
from oyer.manager.requirements import compares
from oyer.manager.score import Score, without_reward
from oyer.manager.slime.caller import Caller, current_caller
from oyer.manager.slime.normalise import group_of
from oyer.manager.slime.samples import group_id_of, rollout_of
from oyer.manager.slime.siblings import Recent, SiblingWatch, unless_aborted
from oyer.manager.stand_ins import StandIns
from oyer.protocol.errors import InvalidRollout
from oyer.protocol.rollout import Rollout

log = get_logger(__name__)

TIMEOUT_S = 600.0
"""Default of `args.oyer_timeout_s`, the longest wait for a reward, in seconds."""

ABORTED = "aborted"
"""`judge_status` of a sample that slime discards because it aborted its group."""


@dataclass(frozen=True)
class _Scorer:
    """What the samples of one process share."""

    manager: RewardManager
    outages: OutageBreaker
    stand_ins: StandIns
    compares: bool
    needed: NeededFields
    watches: Recent = field(default_factory=Recent)
    finished: Recent = field(default_factory=Recent)
    """Samples with a reward whose group was closed before all came, by group."""


async def custom_rm(args: Any, sample: Any, **_: Any) -> Any:
    """Score a sample or a list; returns numbers, or dicts under slime's `--reward-key`."""
    caller = current_caller()
    if isinstance(sample, Sequence):
        return await _scored(args, sample, caller, group_size=None)
    size = len(caller.siblings) or getattr(args, "n_samples_per_prompt", None)
    size = 1 if sample.group_index is None or caller.evaluation else size
    return (await _scored(args, [sample], caller, group_size=size))[0]


async def group_rm(args: Any, samples: Sequence[Any], **_: Any) -> list[Any]:
    """Score the samples of one prompt, for `--group-rm`."""
    return await _scored(args, samples, current_caller(), group_size=None)


def missing_reward(sample: Any, score: Score, stand_in: float) -> float:
    """Return the reward, or `stand_in` if there is none; then exclude the sample from the loss."""
    sample.metadata = {**(sample.metadata or {}), "judge_status": score.status}
    if score.components:
        sample.metadata["oyer"] = {
            name: value if math.isfinite(value) else None
            for name, value in score.components.items()
        }
    if score.turn_scores:
        sample.metadata["turn_scores"] = [*score.turn_scores]
    if score.trainable:
        return score.reward
    sample.remove_sample = True
    return stand_in


async def _scored(
    args: Any, samples: Sequence[Any], caller: Caller, group_size: int | None
) -> list[Any]:
    if not samples:
        # slime calls with no samples if a custom generate function has set every reward.
        return []
    scorer = _scorer_of(args)
    rules = scorer.manager.config.reward
    timeout_s = float(getattr(args, "oyer_timeout_s", TIMEOUT_S))
    discards = not getattr(args, "partial_rollout", False) and not caller.evaluation
    if caller.aborted and discards:
        return _rewards(args, scorer, samples, [Score(status=ABORTED)] * len(samples))
    options = _options(args, scorer, samples, caller, group_size)
    rollouts = _rollouts(args, scorer, samples, caller)
    watch = _watch(args, scorer, samples, rollouts, caller, options)
    try:
        pending = scorer.manager.score_many(rollouts, **options)
        if watch is not None:
            watch.enter(asyncio.current_task())
        gathered = asyncio.ensure_future(pending.gather(timeout_s, rules))
        scores = await (unless_aborted(caller, gathered) if discards else gathered)
        if scores is None:
            scores = [Score(status=ABORTED)] * len(samples)
    except InvalidRollout as error:
        scores = [without_reward(error, rules)] * len(samples)
        if watch is None and options["sample_id"] is not None and (group_size or 1) > 1:
            _close(scorer, rollouts[0], options, absent=[options["sample_id"]])
    scorer.outages.count(score for score in scores if score.status != ABORTED)
    for sample, score in zip(samples, scores, strict=True):
        scorer.stand_ins.add(group_id_of(sample), [score])
    if not all(score.trainable for score in scores):
        await asyncio.sleep(0)  # until the siblings, whose scores came at once, have added theirs
    rewards = _rewards(args, scorer, samples, scores)
    if watch is not None:
        _remember(args, scorer, watch, samples[0], rollouts[0], scores[0])
    return rewards


def _options(
    args: Any, scorer: _Scorer, samples: Sequence[Any], caller: Caller, group_size: int | None
) -> dict[str, Any]:
    run = getattr(args, "oyer_run", None)
    evaluation = caller.evaluation
    if evaluation is None:  # slime sets no group index in evaluation
        evaluation = samples[0].group_index is None
    options: dict[str, Any] = {
        **filed_under(None if run is None else str(run), "slime", scorer.manager),
        # Two trainings that name the same run both number groups from 0.
        "one_prompt": True,
        "group_size": group_size,
        # The index distinguishes samples of a group with equal text.
        "sample_id": str(samples[0].index) if len(samples) == 1 else None,
        "step": caller.step,
        "split": "eval" if evaluation else "train",
    }
    timeout_s = getattr(args, "oyer_group_timeout_s", None)
    if timeout_s is not None:
        options["group_timeout_s"] = float(timeout_s)
    return options


def _rollouts(args: Any, scorer: _Scorer, samples: Sequence[Any], caller: Caller) -> list[Rollout]:
    # The samples of one call without a group index form a group.
    default_group = uuid.uuid4().hex
    tokenizer = getattr(caller.state, "tokenizer", None)
    return [rollout_of(args, one, scorer.needed, default_group, tokenizer) for one in samples]


def _watch(
    args: Any,
    scorer: _Scorer,
    samples: Sequence[Any],
    rollouts: Sequence[Rollout],
    caller: Caller,
    options: dict[str, Any],
) -> SiblingWatch | None:
    """Return the watch of a sample's group; None if the sample waits for no sibling."""
    group = group_of(samples[0])
    size = options["group_size"]
    if group is None or not size or size == 1 or not caller.siblings or not scorer.compares:
        return None
    watch = scorer.watches.get(group)
    if watch is None or watch.siblings[0] is not caller.siblings[0]:
        watch = SiblingWatch(caller.siblings, lambda: _close(scorer, rollouts[0], options))
        # A resumed group is compared with the samples that were finished before.
        for sample, rollout in scorer.finished.pop(group, {}).values():
            again = {**options, "sample_id": str(sample.index)}
            pending = scorer.manager.score_many([rollout], **again)
            watch.earlier.append((sample, rollout, pending))
        scorer.watches.keep(group, watch)
    return watch


def _close(
    scorer: _Scorer, rollout: Rollout, options: dict[str, Any], absent: Sequence[str] | None = None
) -> None:
    """Say that the named samples of a group, or all further ones, will not come."""
    scorer.manager.close_groups(
        [str(rollout.group_id)], absent=absent, prompts=[rollout.prompt], **options
    )


def _remember(
    args: Any, scorer: _Scorer, watch: SiblingWatch, sample: Any, rollout: Rollout, score: Score
) -> None:
    """Keep a finished sample for its resumed siblings, and correct the rewards of earlier ones."""
    if getattr(args, "partial_rollout", False) and watch.closed and score.trainable:
        group = group_of(sample)
        earlier = {one.index: (one, before) for one, before, _ in watch.earlier}
        kept = {**earlier, **scorer.finished.get(group, {}), sample.index: (sample, rollout)}
        scorer.finished.keep(group, kept)
    rules = scorer.manager.config.reward
    for one, _, pending in watch.earlier:
        if pending.done():
            (found,) = pending.collect(0, rules)
            if found.trainable:
                (one.reward,) = _rewards(args, scorer, [one], [found])


def _rewards(
    args: Any, scorer: _Scorer, samples: Sequence[Any], scores: Sequence[Score]
) -> list[Any]:
    columns = component_columns(scores, names=component_names(scorer.manager.config))
    rewards = []
    for i, (sample, score) in enumerate(zip(samples, scores, strict=True)):
        if not score.trainable and score.status != ABORTED:
            log.warning("a sample has no reward (%s): %s", score.status, score.error)
        fixed = getattr(args, "oyer_missing_reward", None)
        neutral = scorer.stand_ins.reward(group_id_of(sample))
        reward = missing_reward(sample, score, neutral if fixed is None else float(fixed))
        components = {name: column[i] for name, column in columns.items()}
        rewards.append(_as_slime_reward(args, sample, reward, score, components))
    return rewards


def _as_slime_reward(
    args: Any, sample: Any, reward: float, score: Score, components: dict[str, float]
) -> Any:
    """Return the number, or a dict with it if `--reward-key` is set.

    A key that names a component, e.g. `oyer/<judge>`, selects that component.
    """
    keys = {getattr(args, "reward_key", None)}
    if sample.group_index is None:
        keys.add(getattr(args, "eval_reward_key", None))
    named = dict.fromkeys(keys - {None, ""}, reward)
    if not named:
        return reward
    judge_score = score.judge_score if math.isfinite(score.judge_score) else 0.0
    status = {"judge_score": judge_score, "judge_status": score.status}
    return {**status, **named, **components}


def _scorer_of(args: Any) -> _Scorer:
    timeout_s = float(getattr(args, "oyer_timeout_s", TIMEOUT_S))
    return _scorer(os.getpid(), os.environ.get(CONFIG_VARIABLE), timeout_s)


@lru_cache(maxsize=8)
def _scorer(pid: int, path: str | None, timeout_s: float) -> _Scorer:
    streamed, outages = one_by_one(load_config(path), timeout_s)
    return _Scorer(
        RewardManager(streamed),
        outages,
        StandIns(),
        compares(streamed),
        NeededFields.of(streamed),
    )
