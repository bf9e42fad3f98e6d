"""Oyer in TRL: judges and length terms as one reward function, so that a missing score masks the row.

    trainer = GRPOTrainer(..., reward_funcs=reward_function("oyer.yaml", num_generations=8))

- TRL adds the rewards of several functions and masks a row only where all gave None: a judge and a
  length penalty in two functions would turn an outage into a penalty.
- `reward_function` gives a real coroutine function (TRL 0.27 and later); `RewardFunction` is a
  picklable callable for earlier ones, and for AsyncGRPO, whose scorer is another process.
"""

import asyncio
import inspect
import json
import math
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from celery.utils.log import get_logger

from oyer.manager import validation
from oyer.manager.client import RewardManager
from oyer.manager.future import RewardFuture
from oyer.manager.score import Score, scores_of, without_reward
from oyer.tasks.config import RewardConfig
from oyer.tasks.errors import InvalidInput, InvalidRollout
from oyer.tasks.payloads import Message, Rollout
from oyer.tasks.statuses import Status

log = get_logger(__name__)

Texts = Sequence[str | list[Message]]
Rewards = list[float | None]

TICKETS = "oyer_ticket"
"""The column in which a `rollout_func` hands over what `submit` gave it."""


_UNREADABLE = Score(status=Status.REJECTED, error="the row cannot be scored; see the log")

_NOWHERE = "-"
"""Stands in a ticket for the place of a row that stayed behind."""


def missing_reward(score: Score) -> float | None:
    """Return what TRL is given: None masks a row without a reward and keeps it out of baselines."""
    return score.reward if score.trainable else None


class RewardFunction:
    """Scores what TRL generated: a synchronous, picklable reward function."""

    def __init__(
        self,
        config: RewardManager | RewardConfig | Mapping[str, Any] | str | Path,
        *,
        num_generations: int | None = None,
        base_score: Callable[..., Any] | None = None,
        reference: str | None = None,
        run: str = "trl",
        timeout_s: float | None = None,
    ) -> None:
        """Connect to a running backend.

        Args:
            config: a manager, its configuration, or the path of one.
            num_generations: the trainer's; a group is that many rows of one prompt. Left out, it
                is the neighbouring rows of one prompt.
            base_score: a reward function as TRL takes it, sync or async; its rewards are the base
                scores, None for a row that has none.
            reference: the dataset column that holds the reference answer for the judge.
            run: the training run that the record files batches under.
            timeout_s: longest wait for a batch, in seconds; the deadline of the configuration
                bounds it when left out.

        Raises:
            InvalidConfig: a key of the configuration is wrong, or no broker is named.
        """
        self.__name__ = "oyer"
        if isinstance(config, (str, Path)):
            self._manager = RewardManager.from_file(config)
        else:
            self._manager = config if isinstance(config, RewardManager) else RewardManager(config)
        self._num_generations = num_generations
        self._base_score = base_score
        self._reference = reference
        self._run = run
        self._timeout_s = timeout_s

    def __call__(self, prompts: Texts, completions: Texts, **columns: Any) -> Rewards:
        """Score the rows of one call, as TRL hands them over."""
        scoring = self.score(prompts, completions, **columns)
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run(scoring)
        # A notebook trains on a thread whose loop is running already.
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(asyncio.run, scoring).result()

    async def score(self, prompts: Texts, completions: Texts, **columns: Any) -> Rewards:
        """Score the rows of one call without blocking the running event loop."""
        tickets = columns.get(TICKETS)
        if tickets is None:
            tickets = [None] * len(prompts)
        scores: list[Score] = []
        try:
            if None in tickets:
                future, rows = await self._submitted(prompts, completions, columns)
                found = scores_of(await asyncio.wait_for(future, self._timeout_s))
                scores = [_UNREADABLE] * len(prompts)
                for row, score in zip(rows, found, strict=True):
                    scores[row] = score
            else:
                scores = await asyncio.wait_for(_redeemed(tickets), self._timeout_s)
        except InvalidRollout:
            raise  # a column or a setting is wrong, and would be in every step
        except Exception as error:  # noqa: BLE001 - sorted out by `without_reward`, or raised
            score = without_reward(error, self._manager.config.reward)
            log.warning("a batch has no rewards (%s): %s", score.status, score.error)
            scores = [score] * len(prompts)
        _tell(scores, columns)
        return [missing_reward(score) for score in scores]

    async def submit(self, prompts: Texts, completions: Texts, **columns: Any) -> list[str]:
        """Hand rows over early, e.g. from a `rollout_func`, and go on.

        Returns:
            One ticket a row, to be returned as the extra field `oyer_ticket`.
        """
        future, rows = await self._submitted(prompts, completions, columns)
        places = {row: place for place, row in enumerate(rows)}
        return [f"{future.ticket}#{places.get(i, _NOWHERE)}" for i in range(len(prompts))]

    async def _submitted(
        self, prompts: Texts, completions: Texts, columns: Mapping[str, Any]
    ) -> tuple[RewardFuture, Sequence[int]]:
        """Submit the rows; also say which, since one that cannot be scored stays behind."""
        bases = [None] * len(prompts)
        if self._base_score is not None:
            given = self._base_score(prompts=prompts, completions=completions, **columns)
            bases = await given if inspect.isawaitable(given) else given
        rollouts = self._rollouts(prompts, completions, bases, columns)
        state = columns.get("trainer_state")
        step = None if state is None else int(state.global_step)
        submit = partial(self._manager.submit, run=self._run, step=step)
        try:
            return await asyncio.to_thread(submit, rollouts), range(len(rollouts))
        except InvalidRollout as error:
            rows = self._readable(rollouts)
            if not rows:
                raise
            without_reward(error, self._manager.config.reward)  # raises where the rules say so
            return await asyncio.to_thread(submit, [rollouts[row] for row in rows]), rows

    def _readable(self, rollouts: Sequence[Rollout]) -> list[int]:
        rows = []
        for row, rollout in enumerate(rollouts):
            try:
                validation.check([rollout], self._manager.config)
                rows.append(row)
            except InvalidRollout as error:
                log.warning("row %d has no reward: %s", row, error)
        return rows

    def _rollouts(
        self,
        prompts: Texts,
        completions: Texts,
        bases: Sequence[float | None],
        columns: Mapping[str, Any],
    ) -> list[Rollout]:
        ids = columns.get("completion_ids")
        references = columns.get(self._reference) if self._reference else None
        groups = group_ids(prompts, self._num_generations)
        return [
            Rollout(
                prompt=prompts[i],
                response=_text(completions[i]),
                group_id=groups[i],
                base_score=bases[i],
                response_tokens=None if ids is None else len(ids[i]),
                token_ids=None if ids is None else list(ids[i]),
                reference=None if references is None else str(references[i]),
            )
            for i in range(len(prompts))
        ]


def reward_function(
    config: RewardManager | RewardConfig | Mapping[str, Any] | str | Path, **options: Any
) -> Callable[..., Coroutine[Any, Any, Rewards]]:
    """Make a coroutine function for `reward_funcs`; `options` are those of `RewardFunction`.

    Its attribute `submit` is `RewardFunction.submit`.

    Raises:
        InvalidConfig: a key of the configuration is wrong, or no broker is named.
    """
    scorer = RewardFunction(config, **options)

    async def oyer(
        prompts: Texts,
        completions: Texts,
        completion_ids: Sequence[Sequence[int]] | None = None,
        trainer_state: Any = None,
        log_extra: Callable[[str, list[Any]], None] | None = None,
        log_metric: Callable[[str, float], None] | None = None,
        **columns: Any,
    ) -> Rewards:
        return await scorer.score(
            prompts,
            completions,
            completion_ids=completion_ids,
            trainer_state=trainer_state,
            log_extra=log_extra,
            log_metric=log_metric,
            **columns,
        )

    oyer.submit = scorer.submit  # type: ignore[attr-defined]  # a function may carry attributes
    return oyer


def group_ids(prompts: Texts, num_generations: int | None) -> list[str]:
    """Name the group of each row: neighbouring rows of one prompt, `num_generations` at most."""
    named: list[str] = []
    for run, (_, rows) in enumerate(groupby(prompts)):
        count = len(list(rows))
        named += [f"{run}.{i // (num_generations or count)}" for i in range(count)]
    return named


async def _redeemed(tickets: Sequence[str]) -> list[Score]:
    """Collect what was submitted early, row by row."""
    places = [ticket.rpartition("#") for ticket in tickets]
    if not all(ticket and (row == _NOWHERE or row.isdecimal()) for ticket, _, row in places):
        raise InvalidInput(f"{TICKETS}: holds what `submit` did not give; pass it on unchanged")
    batches = {
        ticket: scores_of(await RewardFuture.from_ticket(ticket))
        for ticket in dict.fromkeys(ticket for ticket, _, _ in places)
    }
    return [
        _UNREADABLE if row == _NOWHERE else batches[ticket][int(row)] for ticket, _, row in places
    ]


def _tell(scores: Sequence[Score], columns: Mapping[str, Any]) -> None:
    """Log the terms: the same names on every rank and in every step."""
    parts = {
        "oyer/judge_score": [score.judge_score for score in scores],
        "oyer/judge_term": [score.judge_term for score in scores],
        "oyer/length_term": [score.length_term for score in scores],
    }
    log_metric, log_extra = columns.get("log_metric"), columns.get("log_extra")
    if log_metric is not None:
        for name, values in parts.items():
            known = [value for value in values if math.isfinite(value)]
            log_metric(name, float(np.mean(known)) if known else math.nan)
        log_metric("oyer/missing", sum(not score.trainable for score in scores) / len(scores))
    if log_extra is not None:
        for name, values in parts.items():
            log_extra(name, values)
        log_extra("oyer/judge_status", [score.status for score in scores])


def _text(completion: str | list[Message]) -> str:
    """The policy's words: a text, or the contents and tool calls of its messages."""
    if isinstance(completion, str):
        return completion
    parts = []
    for message in completion:
        content = message.get("content")
        if content:
            parts.append(content if isinstance(content, str) else json.dumps(content))
        if message.get("tool_calls"):
            parts.append(json.dumps(message["tool_calls"], ensure_ascii=False))
    return "\n".join(parts)
