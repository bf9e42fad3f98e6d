"""OpenRLHF adapter: `reward_func` for `--reward.remote_url`, and the answers of `oyer serve`.

    --reward.remote_url /path/to/examples/openrlhf_reward.py     # judged through this process
    --reward.remote_url http://127.0.0.1:8780/get_reward         # judged through `oyer serve`

OpenRLHF has no missing reward: it gets a number, and `oyer_missing` in `extra_logs` marks it.
"""

import math
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from celery.utils.log import get_logger

from oyer.config.loading import load_config
from oyer.config.reward import RewardConfig
from oyer.manager.adapters import OutageBreaker, as_number, check_fits, filed_under, one_by_one
from oyer.manager.client import RewardManager
from oyer.manager.score import Score, without_reward
from oyer.manager.streaming.identity import RunOptions
from oyer.protocol.content import policy_text
from oyer.protocol.errors import InvalidInput, InvalidRollout
from oyer.protocol.rollout import Rollout
from oyer.protocol.status import Status

log = get_logger(__name__)

TIMEOUT_S = 150.0
"""Longest wait for a reward, in seconds; OpenRLHF's client gives up after 180 s."""

_END_MARKS = re.compile(r"(?:\s|<\|[^<>|]+\|>|</s>)+\Z")
"""Special tokens at the end of a query, which OpenRLHF decodes with them."""

Answer = dict[str, Any]


def missing_reward(score: Score, stand_in: float) -> float:
    """Return the reward, or `stand_in` if there is none: OpenRLHF's baselines take no NaN or None."""
    return score.reward if score.trainable else stand_in


def rollouts_of(
    queries: Sequence[str],
    prompts: Sequence[str] | None,
    labels: Sequence[str | None] | None,
) -> list[Rollout]:
    """Convert a request; the rollouts of one prompt form a group.

    Raises:
        InvalidInput: the lists differ in length.
    """
    prompts = list(prompts or [""] * len(queries))
    labels = list(labels or [None] * len(queries))
    if not len(queries) == len(prompts) == len(labels):
        raise InvalidInput(
            f"query, prompts, labels: have {len(queries)}, {len(prompts)} and {len(labels)} entries;"
            " send one of each per rollout"
        )
    return [
        Rollout(
            prompt=prompt,
            response=response_of(query, prompt),
            group_id=sha256(prompt.encode("utf-8", "replace")).hexdigest()[:32],
            reference=reference_of(label),
        )
        for query, prompt, label in zip(queries, prompts, labels, strict=True)
    ]


def reference_of(label: Any) -> str | None:
    """Convert a label to the reference answer that the judge sees.

    Raises:
        InvalidInput: it has no text form, e.g. an integer of thousands of digits.
    """
    try:
        return None if label is None else str(label)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(
            f"label: cannot be converted to text ({error}); send a string"
        ) from error


def response_of(query: str, prompt: str) -> str:
    """Remove the prompt and the trailing special tokens from a query."""
    _, found, rest = query.partition(prompt) if prompt else ("", "", query)
    return _END_MARKS.sub("", rest if found else query)


def answer(scores: Sequence[Score], config: RewardConfig, stand_in: float = 0.0) -> Answer:
    """Convert scores to OpenRLHF's answer: finite numbers in lists of equal length.

    Returns:
        `rewards`; `scores` in [0, 1] for dynamic filtering (the judges' score relative to their
        scales; 0 for a gated rollout; the reward if there is no judge score); `extra_logs`.
    """
    rewards = [missing_reward(score, stand_in) for score in scores]
    low, high = _judges_scale(config)
    return {
        "rewards": rewards,
        "scores": [
            (score.judge_score - low) / (high - low)
            if math.isfinite(score.judge_score) and high > low
            else 0.0
            if score.status == Status.GATED
            else reward
            for score, reward in zip(scores, rewards, strict=True)
        ],
        "extra_logs": {
            "oyer_missing": [float(not score.trainable) for score in scores],
            "oyer_judge_score": [_finite(score.judge_score) for score in scores],
            "oyer_length_term": [_finite(score.length_term) for score in scores],
        },
    }


def reward_function(
    config: RewardManager | RewardConfig | Mapping[str, Any] | str | Path,
    *,
    base_score: Callable[[str, str, Any], float] | None = None,
    group_size: int | None = None,
    run: str | None = None,
    timeout_s: float = TIMEOUT_S,
    stand_in: float = 0.0,
) -> Callable[..., Answer]:
    """Make a `reward_func(queries, prompts, labels)`.

    Args:
        config: a manager, its configuration, or the path of one.
        base_score: computes the verifier's score from (prompt, response, label).
        group_size: samples per prompt; needed if a length method compares them.
        run: the training run on record, by default `openrlhf`. Processes that name the same run
            share its groups; without a name, the processes of one Ray job do.
        timeout_s: longest wait for a reward, in seconds.
        stand_in: the reward given for a missing one.

    Raises:
        InvalidConfig: a key of the configuration is wrong, no broker is named, or a length method
            needs a field that OpenRLHF does not send.
    """
    given = RewardManager.of(config)
    streamed, outages = one_by_one(given.config)
    manager = given.under(streamed)
    check_fits(
        streamed,
        who="OpenRLHF",
        base_score=base_score is not None,
        group_size=group_size,
        how="group_size",
    )
    return _RewardFunc(
        manager,
        outages,
        filed_under(run, "openrlhf", manager),
        base_score,
        group_size,
        timeout_s,
        stand_in,
    )


@dataclass(frozen=True)
class _RewardFunc:
    manager: RewardManager
    outages: OutageBreaker
    owner: RunOptions
    base_score: Callable[[str, str, Any], float] | None
    group_size: int | None
    timeout_s: float
    stand_in: float

    def __call__(
        self,
        queries: Sequence[str],
        prompts: Sequence[str] | None = None,
        labels: Sequence[Any] | None = None,
        **_: Any,
    ) -> Answer:
        config = self.manager.config
        rollouts = rollouts_of(queries, prompts, labels)
        # OpenRLHF calls once per sample, also for two samples of a group with equal text.
        sample_id = uuid.uuid4().hex if self.group_size else None
        try:
            if self.base_score is not None:
                rollouts = _with_base_scores(rollouts, labels, self.base_score)
            pending = self.manager.score_many(
                rollouts, **self.owner, group_size=self.group_size, sample_id=sample_id
            )
            scores = pending.collect(self.timeout_s, config.reward)
        except InvalidRollout as error:
            scores = [without_reward(error, config.reward)] * len(rollouts)
        self.outages.count(scores)
        for score in scores:
            if not score.trainable:
                log.warning("a rollout has no reward (%s): %s", score.status, score.error)
        return answer(scores, config, self.stand_in)


def _with_base_scores(
    rollouts: Sequence[Rollout],
    labels: Sequence[Any] | None,
    base_score: Callable[[str, str, Any], float],
) -> list[Rollout]:
    """Compute the base scores.

    Raises:
        InvalidRollout: `base_score` raised, an error that OpenRLHF itself would hide.
    """
    try:
        bases = [
            base_score(str(rollout.prompt), policy_text(rollout.response), label)
            for rollout, label in zip(rollouts, labels or [None] * len(rollouts), strict=True)
        ]
    except Exception as error:
        raise InvalidRollout(f"base_score raised {error!r}; fix it") from error
    return [
        replace(one, base_score=as_number(base)) for one, base in zip(rollouts, bases, strict=True)
    ]


@cache
def _configured() -> Callable[..., Answer]:
    return reward_function(load_config())


def reward_func(
    queries: Sequence[str],
    prompts: Sequence[str] | None = None,
    labels: Sequence[Any] | None = None,
    **_: Any,
) -> Answer:
    """Score rollouts with the configuration that `OYER_CONFIG` names."""
    return _configured()(queries, prompts, labels)


def _judges_scale(config: RewardConfig) -> tuple[float, float]:
    """Return the range of `Score.judge_score`, the weighted mean over judges."""
    judges = [judge for judge in config.judges if judge.weight] or config.judges
    weights = [abs(judge.weight) or 1.0 for judge in judges]
    if not judges:
        return 0.0, 0.0
    low, high = np.average([judge.counted_scale for judge in judges], axis=0, weights=weights)
    return float(low), float(high)


def _finite(value: float) -> float:
    """Replace NaN, which JSON and OpenRLHF's averages do not take, with 0; see `oyer_missing`."""
    return value if math.isfinite(value) else 0.0
