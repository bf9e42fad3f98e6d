"""TRL adapter: the functions for `reward_funcs`.

    trainer = GRPOTrainer(..., reward_funcs=reward_function("oyer.yaml", num_generations=8))

- Judges and length terms are one function, so that a missing score masks the row: TRL adds the
  rewards of several functions and masks a row only if all return None. With functions beside Oyer's,
  use `masked_with` or `OverlappedRewards`; without them, a missing score is the mean of its group.
- `RewardFunction` is a picklable callable for AsyncGRPO, which scores in another process.
"""

import inspect
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any

from oyer.config.reward import RewardConfig
from oyer.manager.adapters import component_columns
from oyer.manager.client import RewardManager
from oyer.manager.score import Score
from oyer.manager.trl.columns import TICKETS, Texts
from oyer.manager.trl.neutral import is_masked
from oyer.manager.trl.scorer import RewardFunction, Rewards, missing_reward
from oyer.protocol.errors import InvalidInput

__all__ = [
    "TICKETS",
    "RewardFunction",
    "masked_with",
    "missing_reward",
    "reward_function",
    "reward_functions",
]

Config = RewardManager | RewardConfig | Mapping[str, Any] | str | Path
CoroutineFunction = Callable[..., Coroutine[Any, Any, Rewards]]
ReadScores = Callable[[list[Score], Mapping[str, Any]], Rewards]

BASE_SCORE = "base_score"
"""Name of the first function of `reward_functions` if base scores are computed."""


def reward_function(config: Config, **options: Any) -> CoroutineFunction:
    """Make a coroutine function for `reward_funcs`, with the options of `RewardFunction`.

    Its attribute `submit` is `RewardFunction.submit`. It cannot be pickled: pass a `RewardFunction`
    to AsyncGRPO.

    Raises:
        InvalidConfig: a key of the configuration is wrong, or no broker is named.
    """
    scorer = RewardFunction(config, **options)
    return _function(scorer, scorer.name, scorer.rewards)


def reward_functions(config: Config, **options: Any) -> list[CoroutineFunction]:
    """Make one function per judge and length term, which share one submission per batch.

    For `multi_objective_aggregation="normalize_then_sum"` (GDPO, arXiv 2601.05242), with
    `reward_weights` in the order of the functions. The values are the judges' scores and the length
    terms without the configuration's weights. With `base_score`, that is the first function.

    A row without a reward is None in all functions, so that TRL masks it. In a row that has one, a
    missing component is the mean of its group, so that it changes no ranking.

    Args:
        options: of `RewardFunction`; the functions' names begin with `name` and a slash.

    Raises:
        InvalidConfig: a key of the configuration is wrong, or no broker is named.
    """
    scorer = RewardFunction(config, **options)
    functions = []
    if scorer.has_base_score:
        functions.append(_function(scorer, f"{scorer.name}/{BASE_SCORE}", _base_scores))
    for component in scorer.components:
        read = _component(scorer, component)
        functions.append(_function(scorer, f"{scorer.name}/{component}", read))
    return functions


def masked_with(
    oyer: RewardFunction | CoroutineFunction | Sequence[CoroutineFunction],
    *others: Callable[..., Any],
) -> list[Callable[..., Any]]:
    """Return the functions for `reward_funcs`, so that all return None in a row without a score.

    TRL masks a row only if all functions return None; else it adds the others' rewards, and a rollout
    that was not judged gets a lower reward than its group. `OverlappedRewards` masks such rows by
    itself, also those of reward models and environments.

    Args:
        oyer: from `reward_function` or `reward_functions`, or a `RewardFunction`.
        others: reward functions, sync or async.

    Raises:
        InvalidInput: one of the others is not a function, or `oyer` is not from this module.
    """
    functions = list(oyer) if isinstance(oyer, Sequence) else [oyer]
    scorer = getattr(functions[0], "scorer", None) if functions else None
    if not isinstance(scorer, RewardFunction):
        raise InvalidInput(
            "oyer: is not from reward_function or reward_functions; pass one of these"
        )
    masked = []
    for i, other in enumerate(others):
        # A torch module is callable too, but TRL calls it with tokens.
        if not callable(other) or hasattr(other, "parameters"):
            raise InvalidInput(
                f"others[{i}]: is not a function; to mask the rows of a reward model, derive the"
                " trainer from OverlappedRewards"
            )
        masked.append(_masked(scorer, other, f"other {i}"))
    if isinstance(functions[0], RewardFunction):
        # TRL calls it before the coroutine functions, which then find its scores.
        scorer.shared.readers.add(scorer.name)
    return [*functions, *masked]


def _base_scores(scores: list[Score], _: Mapping[str, Any]) -> Rewards:
    return [one.terms.get(BASE_SCORE, 0.0) if one.trainable else None for one in scores]


def _component(scorer: RewardFunction, name: str) -> ReadScores:
    def read(scores: list[Score], columns: Mapping[str, Any]) -> Rewards:
        values = component_columns(scores, "", [name])[name]
        masked = is_masked(scorer, columns)
        return [
            value if one.trainable or not masked else None
            for value, one in zip(values, scores, strict=True)
        ]

    return read


def _function(scorer: RewardFunction, name: str, read: ReadScores) -> CoroutineFunction:
    """Make a coroutine function; releases of TRL before 1.11 never await other async callables."""

    async def oyer(
        prompts: Texts,
        completions: Texts,
        completion_ids: Sequence[Sequence[int]] | None = None,
        trainer_state: Any = None,
        log_extra: Callable[[str, list[Any]], None] | None = None,
        log_metric: Callable[[str, float], None] | None = None,
        **columns: Any,
    ) -> Rewards:
        columns |= {
            "completion_ids": completion_ids,
            "trainer_state": trainer_state,
            "log_extra": log_extra,
            "log_metric": log_metric,
        }
        return read(await scorer.scores(name, prompts, completions, columns), columns)

    return _readers_of(scorer, oyer, name, name)


def _masked(scorer: RewardFunction, other: Callable[..., Any], reader: str) -> CoroutineFunction:
    async def masked(prompts: Texts, completions: Texts, **columns: Any) -> Rewards:
        given = other(prompts=prompts, completions=completions, **columns)
        values = await given if inspect.isawaitable(given) else given
        scores = await scorer.scores(reader, prompts, completions, columns)
        return [value if one.trainable else None for value, one in zip(values, scores, strict=True)]

    return _readers_of(scorer, masked, getattr(other, "__name__", type(other).__name__), reader)


def _readers_of(scorer: RewardFunction, function: Any, name: str, reader: str) -> CoroutineFunction:
    """Name a function, and count it among the readers of a scorer's batches."""
    function.__name__ = function.__qualname__ = name
    function.scorer, function.submit = scorer, scorer.submit
    scorer.shared.readers.add(reader)
    result: CoroutineFunction = function
    return result
