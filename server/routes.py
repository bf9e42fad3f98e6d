"""Scores the requests of the protocols, and formats their answers."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from oyer.manager import (
    InvalidRollout,
    OyerError,
    RewardManager,
    Rollout,
    openrlhf,
    validation,
)
from oyer.manager.adapters import (
    check_fits,
    component_columns,
    component_names,
    filed_under,
    one_by_one,
)
from oyer.manager.openrlhf.query_text import QueryText
from oyer.manager.requirements import compares
from oyer.manager.score import Score, without_reward
from oyer.manager.stand_ins import StandIns, is_missing, with_group_mean
from oyer.manager.streaming.group_store import MEMORY_S
from oyer.protocol.batch import TRAINING_SPLITS
from oyer.server.context import RequestOrigin
from oyer.server.held import HeldRequests, held_group
from oyer.server.idempotency import KEEP_S, Reply
from oyer.server.schemas import (
    GetRewardRequest,
    RemoteRequest,
    ScoreAnswer,
    ScoreRequest,
    read_json,
)
from oyer.server.settings import ServerSettings

log = logging.getLogger(__name__)

GROUP_TIMEOUT_FRACTION = 0.6
"""Largest fraction of the answer's timeout that a group may wait for its last rollout."""

MAX_GROUP_TIMEOUT_S = 60.0
"""Longest wait of a group for its last rollout that the manager chooses by itself, in seconds."""

Format = Callable[[list[Score]], Any]
"""Turns scores into the content of an answer."""


class Scoring:
    """Scores requests through one manager."""

    def __init__(self, manager: RewardManager, settings: ServerSettings) -> None:
        streamed, self._outages = one_by_one(manager.config)
        self._manager = manager.under(streamed)
        self._numbers = manager.under(
            streamed if settings.group_size is None else with_group_mean(streamed)
        )
        """For protocols that carry nothing but numbers."""
        self._settings = settings
        self._texts = QueryText.of(manager.config, settings.tokenizer)
        self._stand_ins = StandIns(settings.stand_in)
        self.held = HeldRequests()
        """The connections of requests that wait for others."""

    @property
    def texts_wait(self) -> bool:
        """Whether requests of single samples wait for their siblings."""
        return self._settings.group_size is not None and compares(self._numbers.config)

    @property
    def parts_wait(self) -> bool:
        """Whether parts of groups wait for the others."""
        return compares(self._manager.config)

    async def score(self, body: bytes, context: RequestOrigin) -> Reply:
        """Score `POST /v1/score`: whole groups or, with `group_size`, parts of them."""
        request = ScoreRequest.model_validate(read_json(body))
        rollouts = [item.rollout() for item in request.rollouts]
        context = replace(
            context,
            run=request.run or context.run,
            step=context.step if request.step is None else request.step,
            split=request.split or context.split,
        )
        options = self._options(self._manager, request.group_size, context)
        refused = {
            row: InvalidRollout(
                f"rollouts[{row}]: a text holds a lone surrogate; send valid Unicode"
            )
            for row, rollout in enumerate(rollouts)
            if validation.has_broken_text(rollout)
        }
        return await self._reply_except(
            self._manager,
            refused,
            rollouts,
            options,
            context,
            lambda scores: ScoreAnswer.of(scores).model_dump(mode="json"),
        )

    async def get_reward(self, body: bytes, context: RequestOrigin) -> Reply:
        """Score `POST /get_reward`, OpenRLHF's remote reward model."""
        request = GetRewardRequest.model_validate(read_json(body))
        config = self._numbers.config
        prompts = request.prompts or [""] * len(request.query)
        rows = openrlhf.rows_of(request.query, prompts, request.labels, self._texts)
        if not rows:
            return Reply(content=openrlhf.answer([], config), rollouts=0)
        self._check_fits(request, truncated=True, base_score=request.base_scores is not None)
        fields = request.fields()
        rollouts = [
            replace(row, **fields[i])
            if isinstance(row, Rollout)
            else Rollout(prompt=prompt, response="", group_id=openrlhf.group_id_of(prompt))
            for i, (row, prompt) in enumerate(zip(rows, prompts, strict=True))
        ]
        refused = {i: row for i, row in enumerate(rows) if isinstance(row, InvalidRollout)}

        def format_scores(scores: list[Score]) -> Any:
            return openrlhf.answer(scores, config, self._stand_ins_of(rollouts, scores))

        return await self._reply_numbers(refused, rollouts, request.place(context), format_scores)

    async def remote_rm(self, body: bytes, context: RequestOrigin) -> Reply:
        """Score `POST /rm`, slime's `remote_rm`; with `key` the answer is a dict."""
        request = RemoteRequest.model_validate(read_json(body))
        base_score = request.base_score is not None
        self._check_fits(request, truncated=request.says_truncated, base_score=base_score)
        rollout = request.rollout(self._texts)

        def format_scores(scores: list[Score]) -> Any:
            (stand_in,) = self._stand_ins_of([rollout], scores)
            return self._rm(scores[0], stand_in, context.key)

        return await self._reply_numbers({}, [rollout], request.place(context), format_scores)

    async def grade(
        self, rollout: Rollout, context: RequestOrigin, format_score: Callable[[Score], Any]
    ) -> Reply:
        """Score one sample for a grader's protocol, which has no groups."""
        refused = validation.refused_rows([rollout], self._manager.config)
        check_fits(
            self._manager.config,
            who="the grader's client",
            base_score=rollout.base_score is not None,
            group_size=None,
            how="/v1/score with whole groups",
            truncated=False,
            texts_only=bool(refused),
        )
        options = self._options(self._manager, None, context)
        return await self._reply_except(
            self._manager, refused, [rollout], options, context, lambda s: format_score(s[0])
        )

    def _rm(self, score: Score, stand_in: float, key: str | None) -> Any:
        reward = openrlhf.missing_reward(score, stand_in)
        if key is None:
            return reward
        columns = component_columns([score], names=component_names(self._numbers.config))
        components = {name: column[0] for name, column in columns.items()}
        return {
            "judge_score": ScoreAnswer.of([score]).judge_scores[0],
            "judge_status": score.status,
            "missing": is_missing(score),
            key: reward,
            **components,
        }

    def _stand_ins_of(self, rollouts: Sequence[Rollout], scores: Sequence[Score]) -> list[float]:
        for rollout, score in zip(rollouts, scores, strict=True):
            self._stand_ins.add(rollout.group_id, [score])
        return [self._stand_ins.reward(rollout.group_id) for rollout in rollouts]

    def _check_fits(
        self, request: GetRewardRequest | RemoteRequest, *, truncated: bool, base_score: bool
    ) -> None:
        """Refuse a configuration under which no sample of a protocol could be scored.

        Raises:
            InvalidConfig: names what the protocol lacks.
        """
        check_fits(
            self._manager.config,
            who="the client",
            base_score=base_score,
            group_size=self._settings.group_size,
            how="--group-size",
            truncated=truncated,
            texts_only=request.texts_only,
        )

    async def _reply_numbers(
        self,
        refused: Mapping[int, InvalidRollout],
        rollouts: Sequence[Rollout],
        context: RequestOrigin,
        format_scores: Format,
    ) -> Reply:
        """Score rollouts of a protocol that answers with numbers.

        A rollout that cannot be scored gets a missing score, not an HTTP error: after an error the
        clients retry, and then train without a reward.
        """
        refused = {**validation.refused_rows(rollouts, self._numbers.config), **refused}
        options = self._options(self._numbers, self._settings.group_size, context)
        return await self._reply_except(
            self._numbers, refused, rollouts, options, context, format_scores
        )

    def _options(
        self, manager: RewardManager, group_size: int | None, context: RequestOrigin
    ) -> dict[str, Any]:
        """Return the options of `score_many`."""
        settings = self._settings
        named = settings.run if context.run is None else context.run
        options: dict[str, Any] = {**filed_under(named, "http", manager)}
        options["step"], options["split"] = context.step, context.split
        # Trainings that share a server may use equal group ids.
        options["one_prompt"] = context.run is None
        # An evaluation may have any number of samples per prompt.
        options["group_size"] = group_size if context.split in TRAINING_SPLITS else None
        if options["group_size"] is not None:
            # Leaves time to score an incomplete group before the answer is due.
            limit_s = GROUP_TIMEOUT_FRACTION * settings.timeout_s
            if settings.group_timeout_s is not None or limit_s < MAX_GROUP_TIMEOUT_S:
                given_s = settings.group_timeout_s
                options["group_timeout_s"] = limit_s if given_s is None else min(given_s, limit_s)
            # The same text in another request is another sample; a request's retry is the same one.
            options["sample_id"] = context.key_of_reply
        return options

    async def _reply_except(
        self,
        manager: RewardManager,
        refused: Mapping[int, InvalidRollout],
        rollouts: Sequence[Rollout],
        options: Mapping[str, Any],
        context: RequestOrigin,
        format_scores: Format,
    ) -> Reply:
        """Score all rollouts except the refused ones, which get a missing score.

        Raises:
            InvalidRollout: another rollout is invalid; the message names its row.
        """
        if not refused:
            return await self._reply(manager, rollouts, options, context, format_scores)
        rows = [row for row in range(len(rollouts)) if row not in refused]
        others = validation.refused_rows([rollouts[row] for row in rows], manager.config)
        for i, error in others.items():
            raise InvalidRollout(str(error).replace("rollouts[0]", f"rollouts[{rows[i]}]", 1))
        for error in refused.values():
            log.warning("a rollout is answered without a reward: %s", error)
        self._leave_out(manager, [rollouts[row] for row in refused], options)
        rules = manager.config.reward
        missing = {row: without_reward(error, rules) for row, error in refused.items()}

        def format_all(scored: list[Score]) -> Any:
            scores = missing | dict(zip(rows, scored, strict=True))
            return format_scores([scores[row] for row in range(len(rollouts))])

        if not rows:
            return Reply(content=format_all([]), complete=False, rollouts=len(rollouts))
        kept = [rollouts[row] for row in rows]
        reply = await self._reply(manager, kept, options, context, format_all)
        return replace(reply, complete=False)

    def _leave_out(
        self, manager: RewardManager, refused: Sequence[Rollout], options: Mapping[str, Any]
    ) -> None:
        """Say that refused rollouts will not come, so that their siblings do not wait for them."""
        if options["group_size"] is None or not compares(manager.config):
            return
        for i, rollout in enumerate(refused):
            if rollout.group_id is None:
                continue
            prompts = [rollout.prompt] if options["one_prompt"] else None
            # The same name again if the client retries.
            text = openrlhf.group_id_of(str(rollout.response))
            name = f"{text} {options['sample_id']} {i}"
            manager.close_groups([str(rollout.group_id)], absent=[name], prompts=prompts, **options)

    async def _reply(
        self,
        manager: RewardManager,
        rollouts: Sequence[Rollout],
        options: Mapping[str, Any],
        context: RequestOrigin,
        format_scores: Format,
    ) -> Reply:
        """Score, and answer within the timeout with the scores available by then."""
        pending = manager.score_many(rollouts, **options)
        waits = options["group_size"] is not None and compares(manager.config)
        groups = [held_group(manager, one, options) for one in rollouts] if waits else []
        try:
            with self.held.reply(context.key_of_reply, groups):
                scores = await pending.gather(self._settings.timeout_s, manager.config.reward)
            self._outages.count(scores)
        except (TimeoutError, OyerError) as error:
            return Reply(content={"error": str(error)}, status_code=503, complete=False)
        if self._settings.on_late == "retry" and not pending.done():
            late = f"a judge is late: not all scores came in {self._settings.timeout_s:g} s"
            return Reply(content={"error": late}, status_code=503, complete=False)
        complete = not any(map(is_missing, scores)) and all(score.trainable for score in scores)
        # Later, an equal request may be a new sample of the prompt, whose siblings wait for it.
        keep_s = MEMORY_S if waits else KEEP_S
        content = format_scores(scores)
        return Reply(content=content, complete=complete, rollouts=len(scores), keep_s=keep_s)
