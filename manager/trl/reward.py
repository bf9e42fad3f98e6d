"""Oyer in TRL: judges and length terms as one reward function, so that a missing score masks the row.

    trainer = GRPOTrainer(..., reward_funcs=reward_function("oyer.yaml", num_generations=8))

- TRL adds the rewards of several functions and masks a row only where all gave None: a judge and a
  length penalty in two functions would turn an outage into a penalty.
- `reward_function` gives a real coroutine function (TRL 0.27 and later); `RewardFunction` is a
  picklable callable for earlier ones, and for AsyncGRPO, whose scorer is another process.
"""

import asyncio
import inspect
import uuid
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from celery.utils.log import get_logger

from oyer.config.reward import RewardConfig
from oyer.manager import validation
from oyer.manager.adapters import Outages, Wanted, filed_under, number_of, one_by_one, within
from oyer.manager.client import RewardManager
from oyer.manager.future import RewardFuture
from oyer.manager.requirements import compares
from oyer.manager.score import Score, scores_of, without_reward
from oyer.manager.trl.columns import (
    NOWHERE,
    TICKETS,
    Texts,
    are_spread,
    group_ids,
    group_size,
    in_place,
    own_ids,
    ranks,
    redeemed,
    shared_group_ids,
    step_of,
    tell,
    text_of,
)
from oyer.protocol.content import plain_messages
from oyer.protocol.errors import InvalidConfig, InvalidInput, InvalidRollout
from oyer.protocol.rollout import Rollout
from oyer.protocol.status import NOT_CALLED

log = get_logger(__name__)

Rewards = list[float | None]


RANKS_TIMEOUT_S = 1500.0
"""Longest wait unless told otherwise where several ranks train, in seconds: the others wait in a
collective, which ends the training after the trainer's `ddp_timeout`, 1800 s by default."""


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
        group: str | None = None,
        run: str | None = None,
        timeout_s: float | None = None,
    ) -> None:
        """Connect to a running backend.

        Args:
            config: a manager, its configuration, or the path of one.
            num_generations: the trainer's; a group is that many rows of one prompt, also when
                they are spread over ranks. Left out, it is the neighbouring rows of one prompt.
            base_score: a reward function as TRL takes it, sync or async; its rewards are the base
                scores, None for a row that has none.
            reference: the dataset column that holds the reference answer for the judge.
            group: the column whose values the rows of a group share, where their prompts differ,
                as after several turns; the prompt when left out.
            run: the training run that the record files batches under, `trl` when left out. Ranks
                gather groups with those of their own launcher, or with all that name the same run.
            timeout_s: longest wait for a batch, in seconds; the deadline of the configuration
                bounds it when left out, and with several ranks `RANKS_TIMEOUT_S`.

        Raises:
            InvalidConfig: a key of the configuration is wrong, or no broker is named.
        """
        self.__name__ = "oyer"
        given = RewardManager.of(config)
        if timeout_s is None and ranks() > 1:
            timeout_s = RANKS_TIMEOUT_S
        self._manager = given if timeout_s is None else given.under(within(given.config, timeout_s))
        self._streamed = self._manager.under(one_by_one(self._manager.config)[0])
        self._num_generations = num_generations
        self._wanted = Wanted.by(self._manager.config)
        self._compares = compares(self._manager.config)
        if ranks() > 1 and self._compares and num_generations is None:
            raise InvalidConfig(
                "num_generations: is needed with several ranks, over which TRL may spread a group;"
                " give the trainer's"
            )
        self._base_score = base_score
        self._reference = reference
        self._group = group
        self._where = filed_under(run, "trl", self._manager)
        self._timeout_s = timeout_s
        self._has_read = False

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
            if None not in tickets:
                scores = await asyncio.wait_for(redeemed(tickets), self._timeout_s)
            else:
                rollouts = await self._read(prompts, completions, columns)
                step = step_of(columns)
                if self._spread(prompts, columns):
                    scores = await self._with_other_ranks(rollouts, step, columns)
                else:
                    future, rows = await self._submitted(rollouts, step)
                    found = scores_of(await asyncio.wait_for(future, self._timeout_s))
                    scores = in_place(found, rows, len(rollouts))
            self._has_read = True
        except Exception as error:
            if isinstance(error, InvalidRollout) and not self._has_read:
                raise  # a column or a setting is wrong, and would be in every step
            score = without_reward(error, self._manager.config.reward)
            log.warning("a batch has no rewards (%s): %s", score.status, score.error)
            scores = [score] * len(prompts)
        tell(scores, columns)
        return [missing_reward(score) for score in scores]

    async def submit(self, prompts: Texts, completions: Texts, **columns: Any) -> list[str]:
        """Hand rows over early, e.g. from a `rollout_func`, and go on.

        Returns:
            One ticket a row, to be returned as the extra field `oyer_ticket`.

        Raises:
            InvalidInput: groups are spread over ranks; only the reward function gathers those.
        """
        if self._spread(prompts, columns):
            raise InvalidInput(
                "prompts: a group is spread over ranks; let per_device_train_batch_size ·"
                " steps_per_generation be a multiple of num_generations to submit early"
            )
        rollouts = await self._read(prompts, completions, columns)
        future, rows = await self._submitted(rollouts, step_of(columns))
        places = {row: place for place, row in enumerate(rows)}
        return [f"{future.ticket}#{places.get(i, NOWHERE)}" for i in range(len(prompts))]

    async def _read(
        self, prompts: Texts, completions: Texts, columns: Mapping[str, Any]
    ) -> list[Rollout]:
        bases = [None] * len(prompts)
        if self._base_score is not None:
            given = self._base_score(prompts=prompts, completions=completions, **columns)
            bases = await given if inspect.isawaitable(given) else given
        return self._rollouts(prompts, completions, bases, columns)

    async def _submitted(
        self, rollouts: Sequence[Rollout], step: int | None
    ) -> tuple[RewardFuture, Sequence[int]]:
        """Submit the rows; also say which, since one that cannot be scored stays behind."""
        submit = partial(self._manager.submit, run=self._where["run"], step=step)
        try:
            return await asyncio.to_thread(submit, rollouts), range(len(rollouts))
        except InvalidRollout as error:
            rows = self._readable(rollouts, error)
            return await asyncio.to_thread(submit, [rollouts[row] for row in rows]), rows

    async def _with_other_ranks(
        self, rollouts: Sequence[Rollout], step: int | None, columns: Mapping[str, Any]
    ) -> list[Score]:
        """Let the backend gather groups of which other ranks have the rest."""
        rows: Sequence[int] = range(len(rollouts))
        gather = partial(
            self._streamed.score_many,
            **self._where,
            step=step,
            group_size=group_size(columns, self._num_generations),
            # Two ranks' samples with one text are two.
            sample_id=uuid.uuid4().hex,
        )
        try:
            pending = await asyncio.to_thread(gather, rollouts)
        except InvalidRollout as error:
            rows = self._readable(rollouts, error)
            pending = await asyncio.to_thread(gather, [rollouts[row] for row in rows])
        config = self._streamed.config
        found = await pending.gather(self._timeout_s or config.deadline_s, config.reward)
        # A rank's rollouts are one batch to the trainer, in however many they were judged.
        judged = sum(score.status not in NOT_CALLED for score in found)
        Outages(self._manager.config.reward.max_failed_fraction, judged).count(found)
        return in_place(found, rows, len(rollouts))

    def _shared(self, prompts: Texts, columns: Mapping[str, Any]) -> Texts:
        """What the rows of one group have in common."""
        values: Texts = columns.get(self._group or "") or ()
        return values if values and all(values) else prompts

    def _spread(self, prompts: Texts, columns: Mapping[str, Any]) -> bool:
        n = group_size(columns, self._num_generations)
        if ranks() == 1 or n is None or not self._compares:
            return False
        return are_spread(self._shared(prompts, columns), n)

    def _readable(self, rollouts: Sequence[Rollout], first: InvalidRollout) -> list[int]:
        """Name the rows that can be scored.

        Raises:
            InvalidRollout: none can, or the rules ask to be told.
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
        ids = [own_ids(columns, i) for i in range(len(prompts))]
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
                base_score=number_of(bases[i]),
                response_tokens=None if (own := ids[i]) is None else len(own),
                token_ids=ids[i],
                reference=None if references is None else str(references[i]),
                metadata=self._wanted.metadata_of(
                    {key: columns[key][i] for key in self._wanted.metadata if key in columns}
                ),
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
