"""Scores the rows of a call of TRL: reads the columns, submits, waits, logs."""

import asyncio
import inspect
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
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
    component_names,
    filed_under,
    one_by_one,
    scores_turns,
    with_deadline,
)
from oyer.manager.client import RewardManager
from oyer.manager.future import RewardFuture
from oyer.manager.requirements import compares
from oyer.manager.score import Score, scores_of, without_reward
from oyer.manager.streaming.identity import ScoreOptions
from oyer.manager.tracking import Tracking
from oyer.manager.trl import columns as trl_columns
from oyer.manager.trl.calls import SharedCalls
from oyer.manager.trl.columns import TICKETS, Texts
from oyer.manager.trl.groups import RowGroups, groups_of, ranks
from oyer.manager.trl.neutral import is_masked, neutral_rewards
from oyer.manager.trl.rows import RowReader
from oyer.manager.trl.tickets import collect_tickets, in_row_order, tickets_of
from oyer.protocol.errors import InvalidInput, InvalidRollout
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
    """A synchronous, picklable reward function.

    Args:
        config: a manager, its configuration, or the path of one.
        num_generations: rows of a group where no trainer is known, as in AsyncGRPO and ms-swift;
            GRPOTrainer and RLOOTrainer give their own, also for evaluation.
        base_score: a TRL reward function, sync or async, that returns the base scores; None
            for a row without one.
        reference: the dataset column with the reference answer for the judge.
        group: the column that identifies a group where no trainer is known, if the prompts of a
            group differ; by default the prompt.
        eos_token_ids: end and padding tokens where no trainer is known, so that completions
            that hit the length limit are told from others.
        run: the training run on record, by default `trl`. Ranks share groups within their
            launcher, or with all processes that name the same run.
        timeout_s: longest wait for a batch, in seconds; by default the configuration's
            deadline, and with several ranks `RANKS_TIMEOUT_S`.
        name: of the function, and before the slash in the keys of its metrics; differs for each
            function of a trainer.
        track: a tracker to log each batch to, see `oyer.manager.tracking.log`; not those that are
            submitted early or whose groups are spread over ranks. With several ranks, the first logs.

    Raises:
        InvalidConfig: a key of the configuration is wrong, or no broker is named.
    """

    def __init__(
        self,
        config: RewardManager | RewardConfig | Mapping[str, Any] | str | Path,
        *,
        num_generations: int | None = None,
        base_score: Callable[..., Any] | None = None,
        reference: str | None = None,
        group: str | None = None,
        eos_token_ids: Sequence[int] = (),
        run: str | None = None,
        timeout_s: float | None = None,
        name: str = "oyer",
        track: Any = None,
    ) -> None:
        """Connect to a running backend."""
        self.__name__ = self.name = name
        given = RewardManager.of(config)
        if timeout_s is None and ranks() > 1:
            timeout_s = RANKS_TIMEOUT_S
        self._manager = (
            given if timeout_s is None else given.under(with_deadline(given.config, timeout_s))
        )
        self._streamed = self._manager.under(one_by_one(self._manager.config)[0])
        self._num_generations = num_generations
        needed = NeededFields.of(self._manager.config)
        self._rows = RowReader(needed, reference, frozenset(eos_token_ids))
        self._compares = compares(self._manager.config)
        self.components = component_names(self._manager.config)
        """Names of the judges and length terms."""
        self._base_score = base_score
        self.has_base_score = base_score is not None
        self._group = group
        self._where = filed_under(run, "trl", self._manager)
        self._timeout_s = timeout_s
        self._tracking = Tracking(track)
        self._has_read = False
        self._calls = 0
        self.shared = SharedCalls()
        """The batches that several functions read."""

    @property
    def scorer(self) -> "RewardFunction":
        """The function itself, as of the functions that read its scores."""
        return self

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
        scores = await self.scores(self.name, prompts, completions, columns)
        return self.rewards(scores, columns)

    def rewards(self, scores: Sequence[Score], columns: Mapping[str, Any]) -> Rewards:
        """Return the rewards of one call; a missing one is None, or neutral if TRL cannot mask it."""
        if is_masked(self, columns):
            return [missing_reward(score) for score in scores]
        return neutral_rewards(scores, columns)

    def begin(self, prompts: Texts, completions: Texts, **columns: Any) -> None:
        """Submit a batch in another thread; `score` with the same list of completions collects it."""
        scoring = partial(self._scores, prompts, completions, columns)
        self.shared.begin(completions, scoring)

    async def scores(
        self, reader: str, prompts: Texts, completions: Texts, columns: Mapping[str, Any]
    ) -> list[Score]:
        """Return the scores of one call, submitted once for all readers, and log them once.

        Args:
            reader: names the function that reads them.
        """
        scoring = partial(self._scores, prompts, completions, columns)
        scores, first = await self.shared.read(reader, completions, scoring)
        if first:
            prefix = trl_columns.key_prefix(self, columns)
            by_turn = scores_turns(self._manager.config)
            trl_columns.log_terms(scores, columns, prefix, self.components, by_turn=by_turn)
        return scores

    async def submit(self, prompts: Texts, completions: Texts, **columns: Any) -> list[str]:
        """Submit rows early, e.g. from a `rollout_func`, without waiting.

        Args:
            columns: as TRL passes them to reward functions; `trainer`, which a `rollout_func` is
                given, says step, group size, and whether it evaluates.

        Returns:
            One ticket per row, to be returned as the extra field `oyer_ticket`.

        Raises:
            InvalidInput: groups are spread over ranks, which only the reward function can gather.
        """
        groups = self._groups(prompts, columns)
        if groups.spread:
            raise InvalidInput(
                "prompts: a group is spread over ranks; to submit early, make per_device_train_batch_size"
                " · steps_per_generation a multiple of num_generations"
            )
        rollouts = await self._read(prompts, completions, columns, groups)
        future, rows = await self._sent(self._submission(columns), rollouts)
        return tickets_of(future, rows, len(prompts))

    async def _scores(
        self, prompts: Texts, completions: Texts, columns: Mapping[str, Any]
    ) -> list[Score]:
        tickets, batch = columns.get(TICKETS), None
        try:
            if tickets is not None and None not in tickets:
                scores = await asyncio.wait_for(collect_tickets(tickets), self._timeout_s)
            else:
                groups = self._groups(prompts, columns)
                reading = self._read(prompts, completions, columns, groups)
                if groups.spread:
                    scores = await self._with_other_ranks(reading, columns, groups)
                else:
                    future, rows = await self._sent(self._submission(columns), await reading)
                    batch = await asyncio.wait_for(future, self._timeout_s)
                    scores = in_row_order(scores_of(batch), rows, len(prompts))
            self._has_read = True
        except Exception as error:
            if isinstance(error, InvalidRollout) and not self._has_read:
                raise  # a wrong column or setting, which would fail every step
            score = without_reward(error, self._manager.config.reward)
            log.warning("a batch has no rewards (%s): %s", score.status, score.error)
            scores = [score] * len(prompts)
        if batch is not None:
            step, split = trl_columns.step_of(columns), trl_columns.split_of(columns)
            self._tracking.log(batch, step=step, split=split)
        return scores

    def _groups(self, prompts: Texts, columns: Mapping[str, Any]) -> RowGroups:
        self._calls += 1
        return groups_of(
            prompts,
            columns,
            num_generations=self._num_generations,
            column=self._group,
            # All ranks make the same calls, because TRL gathers the rewards of each.
            call=f"{self.name}.{trl_columns.step_of(columns)}.{self._calls}",
            compared=self._compares,
        )

    async def _read(
        self, prompts: Texts, completions: Texts, columns: Mapping[str, Any], groups: RowGroups
    ) -> list[Rollout]:
        bases = [None] * len(prompts)
        if self._base_score is not None:
            given = self._base_score(prompts=prompts, completions=completions, **columns)
            bases = await given if inspect.isawaitable(given) else given
        return self._rows.rollouts(prompts, completions, bases, columns, groups)

    def _submission(
        self, columns: Mapping[str, Any]
    ) -> Callable[[Sequence[Rollout]], RewardFuture]:
        return partial(
            self._manager.submit,
            run=self._where["run"],
            step=trl_columns.step_of(columns),
            split=trl_columns.split_of(columns),
        )

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
        self, reading: Awaitable[list[Rollout]], columns: Mapping[str, Any], groups: RowGroups
    ) -> list[Score]:
        """Score rows whose groups are spread over ranks; the backend gathers the groups."""
        options: ScoreOptions = {
            "step": trl_columns.step_of(columns),
            "split": trl_columns.split_of(columns),
            "group_size": groups.size,
            "run": self._where["run"],
            "training": self._where.get("training"),
        }
        sampled = options.copy()
        # Samples of two ranks with equal text are different samples.
        sampled["sample_id"] = uuid.uuid4().hex
        gather = partial(self._streamed.score_many, **sampled)
        rows: Sequence[int] = ()
        try:
            pending, rows = await self._sent(gather, await reading)
        finally:
            # Other ranks do not wait for rows that fail here.
            for lost in set(range(len(groups.ids))).difference(rows):
                self._streamed.close_groups(
                    [groups.ids[lost]], absent=[uuid.uuid4().hex], **options
                )
        config = self._streamed.config
        found = await pending.gather(self._timeout_s or config.deadline_s, config.reward)
        # To the trainer, a rank's rollouts are one batch, however they were batched for judging.
        judged = sum(score.status not in NOT_CALLED for score in found)
        OutageBreaker(self._manager.config.reward.max_failed_fraction, judged).count(found)
        return in_row_order(found, rows, len(groups.ids))

    def _readable(self, rollouts: Sequence[Rollout], first: InvalidRollout) -> list[int]:
        """Return the indices of the rows that can be scored.

        Raises:
            InvalidRollout: no row can be scored, or the failure policy is to raise.
        """
        refused = validation.refused_rows(rollouts, self._manager.config)
        for row, error in refused.items():
            log.warning("row %d has no reward: %s", row, error)
        if len(refused) == len(rollouts):
            raise first
        without_reward(first, self._manager.config.reward)
        return [row for row in range(len(rollouts)) if row not in refused]
