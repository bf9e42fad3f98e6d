"""`reward_extra_info` of a rollout: the same keys in every row, and no NaN in them.

verl reads the keys of the first row from all rows, averages each numeric key in validation, and trains
GDPO on the keys in `algorithm.gdpo_reward_keys`. So a missing value is replaced by the group's mean,
which changes no ranking in the group, or by 0; flags beside it say what is missing.
"""

import json
import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np

from oyer.config.reward import RewardConfig
from oyer.manager.adapters import component_columns, component_names, scores_turns
from oyer.manager.score import Score
from oyer.manager.stand_ins import mean_judge_score


class ExtraInfo(dict[str, Any]):
    """A row's `reward_extra_info`; a key that only other rows have is 0."""

    def __missing__(self, key: str) -> Any:
        return 0.0


class ExtraColumns:
    """Makes the `reward_extra_info` of rows, with the keys that `compute_score` returned so far."""

    def __init__(self, config: RewardConfig, gdpo_keys: Sequence[str] = ()) -> None:
        """Read the names of the components.

        Args:
            config: the judges and length methods.
            gdpo_keys: verl's `algorithm.gdpo_reward_keys`.
        """
        self._components = component_names(config)
        self._config = config
        self._scores_turns = scores_turns(config)
        self._given: dict[str, Any] = dict.fromkeys(gdpo_keys, 0.0)

    def row(self, score: Score, base: float, accuracy: float, result: Any) -> ExtraInfo:
        """Return a row.

        Args:
            score: the rollout's.
            base: the base score, NaN without one.
            accuracy: `acc`, NaN without one.
            result: what `compute_score` returned, None if it failed.
        """
        base = _finite(base)
        columns = component_columns([score], names=self._components)
        turns = {"oyer/turn_scores": score.turn_scores_text} if self._scores_turns else {}
        return ExtraInfo(
            self._passed_on(result)
            | {
                "acc": _finite(accuracy),
                "base_score": base,
                "judge_score": _finite(score.judge_score, mean_judge_score(score, self._config)),
                "judge_term": _finite(score.judge_term),
                "length_term": _finite(score.length_term),
                "unshaped_reward": _finite(score.unshaped_reward, base),
                "judge_status": str(score.status),
                "has_reward": score.trainable,
            }
            | {key: values[0] for key, values in columns.items()}
            | turns
        )

    def _passed_on(self, result: Any) -> dict[str, Any]:
        given = plain_result(result)
        for key, value in given.items():
            self._given.setdefault(key, stand_in(value))
        return {**self._given, **given}


def passed_on(results: Sequence[Any]) -> dict[str, list[Any]]:
    """Return the keys of `compute_score`'s dicts as columns, with stand-ins where a row lacks one."""
    given = [plain_result(result) for result in results]
    stand_ins: dict[str, Any] = {}
    for row in given:
        for key, value in row.items():
            stand_ins.setdefault(key, stand_in(value))
    return {key: [row.get(key, value) for row in given] for key, value in stand_ins.items()}


def plain_result(result: Any) -> dict[str, Any]:
    """Return the keys of a dict of `compute_score` with values of which NumPy makes columns."""
    return {str(k): _plain(v) for k, v in result.items()} if isinstance(result, Mapping) else {}


def stand_in(value: Any) -> Any:
    """Return the empty value of the type of `value`, for a row that lacks its key."""
    return "" if isinstance(value, str) else None if value is None else type(value)(0)


def _plain(value: Any) -> Any:
    # A column of lists of different lengths would be an error in verl.
    value = value.item() if isinstance(value, np.generic) else value
    if value is None or isinstance(value, (str, Real)):
        return value
    return json.dumps(value, ensure_ascii=False, default=str)


def _finite(*values: float) -> float:
    """Return the first finite value, else 0."""
    return next((value for value in values if math.isfinite(value)), 0.0)
