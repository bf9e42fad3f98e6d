"""TRL adapter: judges and length terms as one reward function, so that a missing score masks the row.

    trainer = GRPOTrainer(..., reward_funcs=reward_function("oyer.yaml", num_generations=8))

- TRL adds the rewards of several functions and masks a row only if all return None. With judge and
  length penalty in two functions, a judge outage would leave the penalty as the reward.
- `reward_function` returns a coroutine function (TRL 0.27 and later). `RewardFunction` is a picklable
  callable for earlier releases, and for AsyncGRPO, which scores in another process.
"""

import asyncio
import inspect
import uuid
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from celery.utils.log import get_logger

from oyer.config.reward import RewardConfig
from oyer.manager import validation
from oyer.manager.adapters import (
    NeededFields,
    OutageBreaker,
    as_number,
    filed_under,
    one_by_one,
    with_deadline,
)
from oyer.manager.client import RewardManager
from oyer.manager.future import RewardFuture
from oyer.manager.requirements import compares
from oyer.manager.score import Score, scores_of, without_reward
from oyer.manager.trl.columns import (
    NOT_SUBMITTED,
    TICKETS,
    Texts,
    are_spread,
    collect_tickets,
    group_ids,
    group_size,
    in_row_order,
    log_terms,
    policy_token_ids,
    ranks,
    shared_group_ids,
    step_of,
    text_of,
)
from oyer.protocol.content import plain_messages
from oyer.protocol.errors import InvalidConfig, InvalidInput, InvalidRollout
from oyer.protocol.rollout import Rollout
from oyer.protocol.status import NOT_CALLED

log = get_logger(__name__)

Rewards = list[float | None]
Sent = TypeVar("Sent")

RANKS_TIMEOUT_S = 1500.0
"""Default of `timeout_s` with several ranks, in seconds: the other ranks wait in a collective, which
ends the training after the trainer's `ddp_timeout`, 1800 s by default."""


def missing_reward(score: Score) -> float | None:
    """Return the reward; None makes TRL mask the row and exclude it from baselines."""
    return score.reward if score.trainable else None


class RewardFunction:
    """A synchronous, picklable reward function."""

    def __init__(
        self,
        config: RewardManager | RewardConfig | Mapping[str, Any] | str | Path,
        *,
        num_generations: int | None = None,
        base_score: Callable[..., Any] | None = None,
        reference: str | None = None,
        group: str | None = None,
        run: str | None = None,
        timeout_s: float | None = None,
    ) -> None:
        """Connect to a running backend.

        Args:
            config: a manager, its configuration, or the path of one.
            num_generations: the trainer's; a group is that many rows of one prompt, also when
                they are spread over ranks. By default the adjacent rows of one prompt.
            base_score: a TRL reward function, sync or async, that returns the base scores; None
                for a row without one.
            reference: the dataset column with the reference answer for the judge.
            group: the column that identifies a group if its prompts differ, e.g. after several
                turns; by default the prompt.
            run: the training run on record, by default `trl`. Ranks share groups within their
                launcher, or with all processes that name the same run.
            timeout_s: longest wait for a batch, in seconds; by default the configuration's
                deadline, and with several ranks `RANKS_TIMEOUT_S`.

        Raises:
            InvalidConfig: a key of the configuration is wrong, or no broker is named.
        """
        self.__name__ = "oyer"
        given = RewardManager.of(config)
        if timeout_s is None and ranks() > 1:
            timeout_s = RANKS_TIMEOUT_S
        self._manager = (
            given if timeout_s is None else given.under(with_deadline(given.config, timeout_s))
        )
        self._streamed = self._manager.under(one_by_one(self._manager.config)[0])
        self._num_generations = num_generations
        self._needed = NeededFields.of(self._manager.config)
        self._compares = compares(self._manager.config)
        if ranks() > 1 and self._compares and num_generations is None:
            raise InvalidConfig(
                "num_generations: is required with several ranks, because TRL may spread a group over"
                " them; pass the trainer's value"
            )
        self._base_score = base_score
        self._reference = reference
        self._group = group
        self._where = filed_under(run, "trl", self._manager)
        self._timeout_s = timeout_s
        self._has_read = False

    def __call__(self, prompts: Texts, completions: Texts, **columns: Any) -> Rewards:
        """Score the rows of one call of TRL."""
        scoring = self.score(prompts, completions, **columns)
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run(scoring)
        # In a notebook, this thread already runs an event loop.
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(asyncio.run, scoring).result()

    async def score(self, prompts: Texts, completions: Texts, **columns: Any) -> Rewards:
        """Score the rows of one call without blocking the running event loop."""
        tickets = columns.get(TICKETS)
        try:
            if tickets is not None and None not in tickets:
                scores = await asyncio.wait_for(collect_tickets(tickets), self._timeout_s)
            else:
                rollouts = await self._read(prompts, completions, columns)
                step = step_of(columns)
                if self._spread(prompts, columns):
                    scores = await self._with_other_ranks(rollouts, step, columns)
                else:
                    future, rows = await self._sent(self._submission(step), rollouts)
                    found = scores_of(await asyncio.wait_for(future, self._timeout_s))
                    scores = in_row_order(found, rows, len(rollouts))
            self._has_read = True
        except Exception as error:
            if isinstance(error, InvalidRollout) and not self._has_read:
                raise  # a wrong column or setting, which would fail every step
            score = without_reward(error, self._manager.config.reward)
            log.warning("a batch has no rewards (%s): %s", score.status, score.error)
            scores = [score] * len(prompts)
        log_terms(scores, columns)
        return [missing_reward(score) for score in scores]

    async def submit(self, prompts: Texts, completions: Texts, **columns: Any) -> list[str]:
        """Submit rows early, e.g. from a `rollout_func`, without waiting.

        Returns:
            One ticket per row, to be returned as the extra field `oyer_ticket`.

        Raises:
            InvalidInput: groups are spread over ranks, which only the reward function can gather.
        """
        if self._spread(prompts, columns):
            raise InvalidInput(
                "prompts: a group is spread over ranks; to submit early, make per_device_train_batch_size"
                " · steps_per_generation a multiple of num_generations"
            )
        rollouts = await self._read(prompts, completions, columns)
        future, rows = await self._sent(self._submission(step_of(columns)), rollouts)
        places = {row: place for place, row in enumerate(rows)}
        return [f"{future.ticket}#{places.get(i, NOT_SUBMITTED)}" for i in range(len(prompts))]

    async def _read(
        self, prompts: Texts, completions: Texts, columns: Mapping[str, Any]
    ) -> list[Rollout]:
        bases = [None] * len(prompts)
        if self._base_score is not None:
            given = self._base_score(prompts=prompts, completions=completions, **columns)
            bases = await given if inspect.isawaitable(given) else given
        return self._rollouts(prompts, completions, bases, columns)

    def _submission(self, step: int | None) -> Callable[[Sequence[Rollout]], RewardFuture]:
        return partial(self._manager.submit, run=self._where["run"], step=step)

    async def _sent(
        self, send: Callable[[Sequence[Rollout]], Sent], rollouts: Sequence[Rollout]
    ) -> tuple[Sent, Sequence[int]]:
        """Send the rows that can be scored; returns the result of `send` and their indices."""
        try:
            return await asyncio.to_thread(send, rollouts), range(len(rollouts))
        except InvalidRollout as error:
            rows = self._readable(rollouts, error)
            return await asyncio.to_thread(send, [rollouts[row] for row in rows]), rows

    async def _with_other_ranks(
        self, rollouts: Sequence[Rollout], step: int | None, columns: Mapping[str, Any]
    ) -> list[Score]:
        """Score rows whose groups are spread over ranks; the backend gathers the groups."""
        gather = partial(
            self._streamed.score_many,
            **self._where,
            step=step,
            group_size=group_size(columns, self._num_generations),
            # Samples of two ranks with equal text are different samples.
            sample_id=uuid.uuid4().hex,
        )
        pending, rows = await self._sent(gather, rollouts)
        config = self._streamed.config
        found = await pending.gather(self._timeout_s or config.deadline_s, config.reward)
        # To the trainer, a rank's rollouts are one batch, however they were batched for judging.
        judged = sum(score.status not in NOT_CALLED for score in found)
        OutageBreaker(self._manager.config.reward.max_failed_fraction, judged).count(found)
        return in_row_order(found, rows, len(rollouts))

    def _shared(self, prompts: Texts, columns: Mapping[str, Any]) -> Texts:
        """Return the value that the rows of a group share: the `group` column or the prompt."""
        values: Texts = columns.get(self._group or "") or ()
        return values if values and all(values) else prompts

    def _spread(self, prompts: Texts, columns: Mapping[str, Any]) -> bool:
        n = group_size(columns, self._num_generations)
        if ranks() == 1 or n is None or not self._compares:
            return False
        return are_spread(self._shared(prompts, columns), n)

    def _readable(self, rollouts: Sequence[Rollout], first: InvalidRollout) -> list[int]:
        """Return the indices of the rows that can be scored.

        Raises:
            InvalidRollout: no row can be scored, or the failure policy is to raise.
        """
        rows = []
        for row, rollout in enumerate(rollouts):
            try:
                validation.check([rollout], self._manager.config)
                rows.append(row)
            except InvalidRollout as error:
                log.warning("row %d has no reward: %s", row, error)
        if not rows:
            raise first
        without_reward(first, self._manager.config.reward)
        return rows

    def _rollouts(
        self,
        prompts: Texts,
        completions: Texts,
        bases: Sequence[float | None],
        columns: Mapping[str, Any],
    ) -> list[Rollout]:
        needed = self._needed
        ids = [policy_token_ids(columns, i) for i in range(len(prompts))]
        references = columns.get(self._reference) if self._reference else None
        shared = self._shared(prompts, columns)
        if self._spread(prompts, columns):
            groups = shared_group_ids(shared, step_of(columns))
        else:
            groups = group_ids(shared, group_size(columns, self._num_generations))
        return [
            Rollout(
                prompt=plain_messages(prompts[i]),
                response=text_of(completions[i]),
                group_id=groups[i],
                base_score=as_number(bases[i]),
                response_tokens=None if (own := ids[i]) is None else len(own),
                token_ids=ids[i],
                reference=None if references is None else str(references[i]),
                metadata=needed.metadata_of(
                    {key: columns[key][i] for key in needed.metadata if key in columns}
                ),
            )
            for i in range(len(prompts))
        ]


def reward_function(
    config: RewardManager | RewardConfig | Mapping[str, Any] | str | Path, **options: Any
) -> Callable[..., Coroutine[Any, Any, Rewards]]:
    """Make a coroutine function for `reward_funcs`, with the options of `RewardFunction`.

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

    oyer.submit = scorer.submit  # type: ignore[attr-defined]  # functions accept attributes
    return oyer
