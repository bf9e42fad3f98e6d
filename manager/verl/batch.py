"""The replaced system's own class: a whole `DataProto` in, a reward tensor out (verl to 0.7.0).

- Called again with the same data, as verl does after an exception, it pays nothing again.
- A pickled copy scores through the backend of its original, which must live on; a key given by
  value is pickled only where the process itself judges.
"""

import importlib
import math
import os
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

import numpy as np
from celery.utils.log import get_logger

from oyer.config.reward import RewardRules
from oyer.manager import client
from oyer.manager.backend.prepare import prepare
from oyer.manager.batch import RewardBatch, failure_of
from oyer.manager.score import Score, scores_of, without_reward
from oyer.manager.validation import check
from oyer.manager.verl.data import (
    ComputeScore,
    VerlRow,
    base_score_of,
    default_compute_score,
    place,
    read_row,
)
from oyer.manager.verl.settings import LengthPenaltyConfig, Resolved, resolve
from oyer.protocol.errors import InvalidConfig
from oyer.protocol.rollout import Rollout
from oyer.protocol.status import NOT_CALLED

log = get_logger(__name__)

Wait = Callable[[float | None], RewardBatch]


class LengthPenaltyRewardManager:
    """Base score, a judge's quality score and the median-band length penalty of a batch.

    `manager(data)` gives `float32 [B, R]`, each reward at its response's last token;
    `manager(data, return_dict=True)` gives `reward_tensor` and `reward_extra_info`.
    """

    def __init__(
        self,
        tokenizer: Any,
        num_examine: int = 0,
        compute_score: ComputeScore | None = None,
        reward_fn_key: str = "data_source",
        length_penalty_config: Any = None,
        **kwargs: Any,
    ) -> None:
        """Check the settings; a backend is started or reached by the first batch.

        Args:
            tokenizer: decodes token ids.
            num_examine: examples to print, per call and data source.
            compute_score: (data_source, solution_str, ground_truth, extra_info) -> float or dict
                with `score`; verl's own when left out.
            reward_fn_key: the column that holds the data source.
            length_penalty_config: a `LengthPenaltyConfig`, a mapping, or an object of such names.
            kwargs: settings, where verl hands its `reward_kwargs` over one by one.

        Raises:
            InvalidConfig: a setting is wrong.
        """
        self.tokenizer = tokenizer
        self.num_examine = num_examine
        self.compute_score = compute_score or default_compute_score()
        self.reward_fn_key = reward_fn_key
        if kwargs and length_penalty_config is not None:
            names = ", ".join(sorted(kwargs))
            raise InvalidConfig(f"{names}: give settings in length_penalty_config or one by one")
        settings = LengthPenaltyConfig.of(kwargs or length_penalty_config)
        self.length_penalty_config = settings
        resolve(settings)

    def __call__(self, data: Any, return_dict: bool = False) -> Any:
        """Score a batch and wait for it."""
        return self.submit(data).result(return_dict=return_dict)

    def submit(self, data: Any) -> "VerlFuture":
        """Hand a batch over and go on computing.

        Raises:
            InvalidConfig: a setting is wrong, or a key by value would have to leave this machine.
            InvalidRollout: a row cannot be scored; nothing was submitted.
            BackendUnavailable: the broker cannot be reached, or no backend could be started.
        """
        if "rm_scores" in data.batch.keys():  # noqa: SIM118 - a TensorDict is no mapping
            return VerlFuture(self, data, [], [], None)
        rows = [read_row(data, i, self.tokenizer, self.reward_fn_key) for i in range(len(data))]
        bases = [self._base_score(row) for row in rows]
        rollouts = [_rollout(i, row, bases[i]) for i, row in enumerate(rows)]
        return VerlFuture(self, data, rows, bases, self._send(rollouts))

    def close(self) -> None:
        """Stop the backend that this process started for these settings."""
        with _backends_lock:
            started = _backends.pop((os.getpid(), self.length_penalty_config), None)
        if started is not None:
            started.close()

    def _base_score(self, row: VerlRow) -> float:
        return base_score_of(
            self.compute_score(
                data_source=row.data_source,
                solution_str=row.response,
                ground_truth=row.ground_truth,
                extra_info=row.extra_info,
            )
        )

    def _send(self, rollouts: list[Rollout]) -> Wait:
        settings = self.length_penalty_config
        resolved = resolve(settings)
        if resolved.mode == "direct":
            check(rollouts, resolved.config)
            columns = prepare(rollouts, resolved.config, run=settings.run, step=None).columns
            batch = RewardBatch.of(_direct_scorer(settings).score(columns, rollouts))
            return partial(_checked, batch, resolved.config.reward)
        return _manager(settings, resolved).submit(rollouts, run=settings.run).result

    def __getstate__(self) -> dict[str, Any]:
        settings = self.length_penalty_config
        resolved = resolve(settings)
        if resolved.mode == "local":
            running = _manager(settings, resolved).config
            settings = replace(
                settings,
                api_key=None,
                api_key_env=None,
                broker_url=running.broker.url,
                endpoint=running.judges[0].endpoint if running.judges else None,
            )
        return {**self.__dict__, "length_penalty_config": settings}


@dataclass(frozen=True)
class VerlFuture:
    """The rewards of one `DataProto`, to come."""

    manager: LengthPenaltyRewardManager
    data: Any
    rows: Sequence[VerlRow]
    base_scores: Sequence[float]
    wait: Wait | None
    """None where verl brought `rm_scores` along."""

    def result(self, timeout_s: float | None = None, *, return_dict: bool = False) -> Any:
        """Wait for the rewards.

        Args:
            timeout_s: longest wait in seconds; the settings' `timeout_s` when left out. Rows that
                have no reward by then get the one that the settings give a missing score.

        Raises:
            MissingScores: rows without a score, under `on_missing: raise`.
        """
        if self.wait is None:
            return _passed_through(self.data, return_dict)
        scores = self._scores(self.wait, timeout_s)
        rewards = [
            score.reward if score.trainable else unjudged_reward(score, base)
            for score, base in zip(scores, self.base_scores, strict=True)
        ]
        tensor = place(self.data, rewards)
        info = self._extra_info(scores)
        self._print_examples(rewards, info)
        return {"reward_tensor": tensor, "reward_extra_info": info} if return_dict else tensor

    def _scores(self, wait: Wait, timeout_s: float | None) -> list[Score]:
        settings = self.manager.length_penalty_config
        limit_s = settings.timeout_s if timeout_s is None else timeout_s
        try:
            return scores_of(wait(limit_s))
        except Exception as error:  # noqa: BLE001 - sorted out by `without_reward`, or raised
            score = without_reward(error, resolve(settings).config.reward)
            log.warning("a batch has no rewards (%s): %s", score.status, score.error)
            return [score] * len(self.rows)

    def _extra_info(self, scores: Sequence[Score]) -> dict[str, list[Any]]:
        lengths: dict[str, list[int]] = defaultdict(list)
        groups = [_group_id(i, row) for i, row in enumerate(self.rows)]
        for group, row in zip(groups, self.rows, strict=True):
            lengths[group].append(row.response_tokens)
        medians = {group: float(np.median(counts)) for group, counts in lengths.items()}
        info: dict[str, list[Any]] = {
            "openai_quality_reward": [_quality(score) for score in scores],
            "original_score": list(self.base_scores),
            "response_length": [row.response_tokens for row in self.rows],
            "median_length": [medians[group] for group in groups],
        }
        if self.manager.length_penalty_config.enable:
            penalties = [-score.terms.get("length_penalty", math.nan) for score in scores]
            info["length_penalty"] = penalties
        return info

    def _print_examples(self, rewards: Sequence[float], info: dict[str, list[Any]]) -> None:
        printed: Counter[str] = Counter()
        for i, row in enumerate(self.rows):
            source = str(row.data_source)
            printed[source] += 1
            if printed[source] <= self.manager.num_examine:
                print(f"[prompt] {row.prompt}\n[response] {row.response}")
                print(f"[ground_truth] {row.ground_truth}\n[reward] {rewards[i]:g}")
                for name, values in info.items():
                    print(f"[{name}] {values[i]:g}")


def unjudged_reward(score: Score, base_score: float) -> float:
    """Return the reward of a row without one: base score less penalty, as without a judge."""
    penalty = score.terms.get("length_penalty", math.nan)
    return base_score + (penalty if math.isfinite(penalty) else 0.0)


def _quality(score: Score) -> float:
    """What the judge adds: 0 for a row that is not judged, NaN for one whose judging failed."""
    return score.judge_term if score.trainable or score.status in NOT_CALLED else math.nan


def _group_id(i: int, row: VerlRow) -> str:
    return f"row {i}" if row.uid is None else row.uid


def _rollout(i: int, row: VerlRow, base_score: float) -> Rollout:
    return Rollout(
        prompt=row.prompt,
        response=row.response,
        group_id=_group_id(i, row),
        base_score=base_score,
        response_tokens=row.response_tokens,
        reference=row.reference,
    )


def _passed_through(data: Any, return_dict: bool) -> Any:
    scores = data.batch["rm_scores"]
    if not return_dict:
        return scores
    keys = data.meta_info.get("reward_extra_keys", [])
    return {
        "reward_tensor": scores,
        "reward_extra_info": {key: data.non_tensor_batch[key] for key in keys},
    }


def _checked(batch: RewardBatch, rules: RewardRules, timeout_s: float | None) -> RewardBatch:
    """Give a batch that was scored at once, as a future's `result` does."""
    failure = failure_of(batch, rules)
    if failure is not None:
        raise failure
    return batch


_backends: dict[tuple[int, LengthPenaltyConfig], client.RewardManager] = {}
_backends_lock = threading.Lock()


def _manager(settings: LengthPenaltyConfig, resolved: Resolved) -> client.RewardManager:
    """Return this process's manager for some settings, and start its backend where there is none."""
    with _backends_lock:
        place_ = (os.getpid(), settings)
        if place_ not in _backends:
            _backends[place_] = (
                _started(resolved)
                if resolved.mode == "local"
                else client.RewardManager(resolved.config)
            )
        return _backends[place_]


def _started(resolved: Resolved) -> client.RewardManager:
    """Start workers on this machine; they inherit the key through their environment."""
    before = {name: os.environ.get(name) for name in resolved.environ}
    os.environ.update(resolved.environ)
    try:
        return client.RewardManager.local(resolved.config)
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@lru_cache(maxsize=16)
def _direct_scorer(settings: LengthPenaltyConfig) -> Any:
    # By name: judging in this process loads what a trainer's side never loads otherwise.
    module = importlib.import_module("oyer.tasks.in_process")
    resolved = resolve(settings)
    return module.InProcessScorer(resolved.config, {**os.environ, **resolved.environ})
