"""`LengthPenaltyRewardManager`: scores a whole `DataProto` (verl up to 0.7.0).

- A second call with the same data, as verl makes after an exception, makes no further judge calls.
- A pickled copy uses the backend of its original, which must keep running. An API key given by value
  is pickled only in the mode in which the process itself calls the judge.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from celery.utils.log import get_logger

from oyer.config.reward import RewardRules
from oyer.manager.adapters import NeededFields, component_columns, component_names
from oyer.manager.backend.prepare import prepare
from oyer.manager.batch import RewardBatch, failure_of
from oyer.manager.score import Score, scores_of, without_reward
from oyer.manager.tracking import Tracking
from oyer.manager.validation import check
from oyer.manager.verl import backends
from oyer.manager.verl.columns import passed_on
from oyer.manager.verl.data import (
    ComputeScore,
    RowReading,
    VerlRow,
    base_score_of,
    default_compute_score,
    end_ids_of,
    place,
    read_row,
)
from oyer.manager.verl.settings import LengthPenaltyConfig, resolve
from oyer.protocol.errors import InvalidConfig
from oyer.protocol.rollout import Rollout

log = get_logger(__name__)

Wait = Callable[[float | None], RewardBatch]


class LengthPenaltyRewardManager:
    """Reward of base score, a judge's quality score and the median-band length penalty.

    `manager(data)` returns `float32 [B, R]`, each reward at its response's last token;
    `manager(data, return_dict=True)` returns `reward_tensor` and `reward_extra_info`.
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
        """Check the settings; the first batch starts a backend or connects to one.

        Args:
            tokenizer: decodes token ids.
            num_examine: examples to print per call and data source.
            compute_score: (data_source, solution_str, ground_truth, extra_info) -> float or dict
                with `score`; by default verl's.
            reward_fn_key: the column with the data source.
            length_penalty_config: a `LengthPenaltyConfig`, a mapping, or an object with its attributes.
            kwargs: the settings as single arguments, as verl passes its `reward_kwargs`.

        Raises:
            InvalidConfig: a setting is wrong.
        """
        self.tokenizer = tokenizer
        self.num_examine = num_examine
        self.compute_score = compute_score or default_compute_score()
        self.reward_fn_key = reward_fn_key
        if kwargs and length_penalty_config is not None:
            names = ", ".join(sorted(kwargs))
            raise InvalidConfig(
                f"{names}: pass settings in length_penalty_config or as arguments, not both"
            )
        settings = LengthPenaltyConfig.of(kwargs or length_penalty_config)
        Tracking(settings.track)
        self.length_penalty_config = settings
        resolve(settings)

    def __call__(self, data: Any, return_dict: bool = False) -> Any:
        """Score a batch and wait for it."""
        return self.submit(data).result(return_dict=return_dict)

    def submit(self, data: Any) -> "VerlFuture":
        """Submit a batch without waiting for it.

        Raises:
            InvalidConfig: a setting is wrong, or an API key given by value would be sent to a broker.
            InvalidRollout: a row cannot be scored; nothing was submitted.
            BackendUnavailable: the broker cannot be reached, or starting a backend failed.
        """
        if "rm_scores" in data.batch.keys():  # noqa: SIM118 - a TensorDict is no mapping
            return VerlFuture(self, data, [], [], None)
        reading = RowReading(
            tokenizer=self.tokenizer,
            end_ids=end_ids_of(self.tokenizer),
            reward_fn_key=self.reward_fn_key,
            needed=NeededFields.of(resolve(self.length_penalty_config).config),
        )
        rows = [read_row(data, i, reading) for i in range(len(data))]
        results = [self._computed(row) for row in rows]
        rollouts = [
            _rollout(i, row, base_score_of(result))
            for i, (row, result) in enumerate(zip(rows, results, strict=True))
        ]
        return VerlFuture(self, data, rows, results, self._send(rollouts, data.meta_info))

    def close(self) -> None:
        """Stop the backend that this process started for these settings."""
        backends.close(self.length_penalty_config)

    def _computed(self, row: VerlRow) -> Any:
        return self.compute_score(
            data_source=row.data_source,
            solution_str=row.text,
            ground_truth=row.ground_truth,
            extra_info=row.extra_info,
        )

    def _send(self, rollouts: list[Rollout], meta_info: Mapping[str, Any]) -> Wait:
        settings = self.length_penalty_config
        resolved = resolve(settings)
        step, split = _place_of(meta_info)
        if resolved.mode == "direct":
            check(rollouts, resolved.config)
            columns = prepare(rollouts, resolved.config, run=settings.run, step=step).columns
            result = backends.in_process_scorer(settings).score(columns, rollouts)
            batch = replace(RewardBatch.of(result), rollouts=rollouts)
            return partial(_checked, batch, resolved.config.reward)
        manager = backends.manager_of(settings, resolved)
        return manager.submit(rollouts, run=settings.run, step=step, split=split).result

    def __getstate__(self) -> dict[str, Any]:
        settings = self.length_penalty_config
        resolved = resolve(settings)
        if resolved.mode == "local":
            running = backends.manager_of(settings, resolved).config
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
    """The future rewards of one `DataProto`."""

    manager: LengthPenaltyRewardManager
    data: Any
    rows: Sequence[VerlRow]
    results: Sequence[Any]
    """What `compute_score` returned for each row."""
    wait: Wait | None
    """None if the data already has `rm_scores`."""

    def result(self, timeout_s: float | None = None, *, return_dict: bool = False) -> Any:
        """Wait for the rewards.

        Args:
            timeout_s: longest wait in seconds; by default the settings' `timeout_s`. Rows without
                a reward by then are handled as the settings handle a missing score.

        Raises:
            MissingScores: rows have no score, and `on_missing` is `raise`.
        """
        if self.wait is None:
            return _passed_through(self.data, return_dict)
        scores = self._scores(self.wait, timeout_s)
        rewards = [
            score.reward if score.trainable else unjudged_reward(score, base)
            for score, base in zip(scores, self._base_scores(), strict=True)
        ]
        tensor = place(self.data, rewards)
        info = self._extra_info(scores)
        self._print_examples(rewards, info)
        return {"reward_tensor": tensor, "reward_extra_info": info} if return_dict else tensor

    def _scores(self, wait: Wait, timeout_s: float | None) -> list[Score]:
        settings = self.manager.length_penalty_config
        limit_s = settings.timeout_s if timeout_s is None else timeout_s
        try:
            batch = wait(limit_s)
        except Exception as error:  # noqa: BLE001 - `without_reward` raises unknown errors again
            score = without_reward(error, resolve(settings).config.reward)
            log.warning("a batch has no rewards (%s): %s", score.status, score.error)
            return [score] * len(self.rows)
        step, split = _place_of(self.data.meta_info)
        Tracking(settings.track).log(batch, step=step, split=split)
        return scores_of(batch)

    def _base_scores(self) -> list[float]:
        return [base_score_of(result) for result in self.results]

    def _extra_info(self, scores: Sequence[Score]) -> dict[str, list[Any]]:
        config = resolve(self.manager.length_penalty_config).config
        lengths: dict[str, list[int]] = defaultdict(list)
        groups = [_group_id(i, row) for i, row in enumerate(self.rows)]
        for group, row in zip(groups, self.rows, strict=True):
            lengths[group].append(row.response_tokens)
        medians = {group: float(np.median(counts)) for group, counts in lengths.items()}
        info: dict[str, list[Any]] = {
            **passed_on(self.results),
            **component_columns(scores, names=component_names(config)),
            "openai_quality_reward": [_finite(score.judge_term) for score in scores],
            "original_score": self._base_scores(),
            "response_length": [row.response_tokens for row in self.rows],
            "median_length": [medians[group] for group in groups],
        }
        if self.manager.length_penalty_config.enable:
            penalties = [_finite(0.0 - score.terms.get("length_penalty", 0.0)) for score in scores]
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
                    value = values[i]
                    print(
                        f"[{name}] {value:g}" if isinstance(value, float) else f"[{name}] {value}"
                    )


def _place_of(meta_info: Mapping[str, Any]) -> tuple[int | None, str]:
    """Return the training step, and whether the batch is of training or of an evaluation."""
    split = "eval" if meta_info.get("validate", False) else "train"
    return meta_info.get("global_steps"), split


def unjudged_reward(score: Score, base_score: float) -> float:
    """Return the reward of a row without a judge score: base score minus length penalty."""
    penalty = score.terms.get("length_penalty", math.nan)
    return base_score + (penalty if math.isfinite(penalty) else 0.0)


def _finite(value: float) -> float:
    """Return a value that verl can average: 0 for NaN."""
    return value if math.isfinite(value) else 0.0


def _group_id(i: int, row: VerlRow) -> str:
    return f"row {i}" if row.uid is None else row.uid


def _rollout(i: int, row: VerlRow, base_score: float) -> Rollout:
    return Rollout(
        prompt=row.prompt,
        response=row.response,
        group_id=_group_id(i, row),
        base_score=base_score,
        response_tokens=row.response_tokens,
        truncated=row.truncated,
        metadata=row.metadata,
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
    """Apply the failure policy to a batch that is already scored, as a future's `result` does."""
    failure = failure_of(batch, rules)
    if failure is not None:
        raise failure
    return batch
