"""A mixin for TRL's trainers: judging overlaps with the forward passes that follow generation."""

import math
from collections.abc import Sequence
from typing import Any

from celery.utils.log import get_logger

from oyer.manager.trl.columns import MASKS
from oyer.manager.trl.scorer import RewardFunction

log = get_logger(__name__)

_UNREAD = ("prompt", "completion", "completion_ids")
"""Columns that TRL does not pass on from the data set."""


class OverlappedRewards:
    """Submits rollouts when generation returns, and masks rows without a score in all functions.

        class Trainer(OverlappedRewards, GRPOTrainer):
            pass

    For `GRPOTrainer` and `RLOOTrainer` of TRL 1.16, with Oyer's functions in `reward_funcs`. TRL asks
    reward functions for rewards after its forward passes (old and reference log-probs); the functions
    then find the batch submitted. A `base_score` function runs in the submitting thread.

    A row in which an Oyer function returns None becomes NaN in all reward functions, those of reward
    models and environments included. TRL then masks it.
    """

    masks_rows_without_score = True
    reward_funcs: list[Any]
    state: Any

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> Any:
        self._oyer_inputs = inputs
        return super()._generate_and_score_completions(inputs)  # type: ignore[misc]  # of TRL

    def _generate(self, prompts: list[Any]) -> Any:
        generated = super()._generate(prompts)  # type: ignore[misc]  # of TRL
        scorers = {id(s): s for s in map(_scorer, self.reward_funcs) if s is not None}
        if scorers:
            parts = _parts(generated)
            if parts is None:
                log.warning("this release of TRL is not known: rewards do not overlap")
                return generated
            completion_ids, completions, tool_mask, extra = parts
            columns = self._reward_columns(completion_ids, tool_mask, extra)
            for scorer in scorers.values():
                scorer.begin(prompts, completions, **columns)
        return generated

    def _calculate_rewards(self, *args: Any, **kwargs: Any) -> Any:
        rewards = super()._calculate_rewards(*args, **kwargs)  # type: ignore[misc]  # of TRL
        own = [i for i, one in enumerate(self.reward_funcs) if _scorer(one) is not None]
        if own:
            rewards[rewards[:, own].isnan().any(dim=1)] = math.nan
        return rewards

    def _reward_columns(
        self, completion_ids: Sequence[Sequence[int]], tool_mask: Any, extra: dict[str, Any]
    ) -> dict[str, Any]:
        """Return what `_calculate_rewards` passes to reward functions, and the tool mask."""
        inputs = self._oyer_inputs
        columns = {key: [row[key] for row in inputs] for key in inputs[0] if key not in _UNREAD}
        for key, values in extra.items():
            columns[key] = values if isinstance(values, list) else [values] * len(inputs)
        if tool_mask is not None:
            columns = {key: values for key, values in columns.items() if key not in MASKS}
            columns[MASKS[0]] = tool_mask
        if getattr(self, "environments", None) is not None:
            columns["environments"] = self.environments  # type: ignore[attr-defined]  # of TRL
        return {
            **columns,
            "completion_ids": completion_ids,
            "trainer_state": self.state,
            "log_extra": self._log_completion_extra,  # type: ignore[attr-defined]  # of TRL
            "log_metric": self._log_metric,  # type: ignore[attr-defined]  # of TRL
        }


def _scorer(function: Any) -> RewardFunction | None:
    scorer = getattr(function, "scorer", None)
    return scorer if isinstance(scorer, RewardFunction) else None


def _parts(generated: tuple[Any, ...]) -> tuple[Any, Any, Any, dict[str, Any]] | None:
    """Return completion ids, completions, tool mask and extra fields of what `_generate` returned."""
    if len(generated) == 8:  # GRPOTrainer of TRL 1.16
        _, completion_ids, tool_mask, completions, _, extra, _, _ = generated
        return completion_ids, completions, tool_mask, extra
    if len(generated) == 3:  # RLOOTrainer
        _, completion_ids, completions = generated
        return completion_ids, completions, None, {}
    return None
