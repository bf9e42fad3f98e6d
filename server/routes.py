"""Scores the requests of the three protocols, and formats their answers."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Any

from oyer.manager import (
    InvalidRollout,
    OyerError,
    RewardConfig,
    RewardManager,
    Rollout,
    openrlhf,
    validation,
)
from oyer.manager.adapters import check_fits, filed_under, one_by_one
from oyer.manager.score import Score, without_reward
from oyer.protocol.content import plain_messages
from oyer.server.idempotency import Reply
from oyer.server.schemas import (
    GetRewardRequest,
    RemoteRequest,
    ScoreAnswer,
    ScoreRequest,
    read_json,
)
from oyer.server.settings import ServerSettings

GROUP_TIMEOUT_FRACTION = 0.6
"""Largest fraction of the answer's timeout that a group may wait for its last rollout."""

Format = Callable[[list[Score]], Any]
"""Turns scores into the content of an answer."""


class Scoring:
    """Scores requests through one manager."""

    def __init__(self, manager: RewardManager, settings: ServerSettings) -> None:
        streamed, self._outages = one_by_one(manager.config)
        self._manager = manager.under(streamed)
        self._settings = settings

    async def score(self, body: bytes, run: str | None, copy: int) -> Reply:
        """Score `POST /v1/score`: whole groups or, with `group_size`, parts of them."""
        request = ScoreRequest.model_validate(read_json(body))
        rollouts = [item.rollout() for item in request.rollouts]
        options = self._options(request.group_size, copy, request.run or run)
        options["step"] = request.step
        refused = {
            row: InvalidRollout(
                f"rollouts[{row}]: a text holds a lone surrogate; send valid Unicode"
            )
            for row, rollout in enumerate(rollouts)
            if validation.has_broken_text(rollout)
        }
        return await self._reply_except(
            refused,
            rollouts,
            options,
            lambda scores: ScoreAnswer.of(scores).model_dump(mode="json"),
        )

    async def get_reward(self, body: bytes, run: str | None, copy: int) -> Reply:
        """Score `POST /get_reward`, OpenRLHF's remote reward model."""
        request = GetRewardRequest.model_validate(read_json(body))
        rollouts = openrlhf.rollouts_of(request.query, request.prompts, request.labels)
        config, stand_in = self._manager.config, self._settings.stand_in
        if not rollouts:
            return Reply(content=openrlhf.answer([], config), rollouts=0)
        return await self._reply_texts(
            rollouts, copy, run, lambda scores: openrlhf.answer(scores, config, stand_in)
        )

    async def remote_rm(self, body: bytes, run: str | None, key: str | None, copy: int) -> Reply:
        """Score `POST /rm`, slime's `remote_rm`; with `key` the answer is a dict."""
        request = RemoteRequest.model_validate(read_json(body))
        prompt = request.prompt if isinstance(request.prompt, str) else json.dumps(request.prompt)
        rollout = Rollout(
            prompt=plain_messages(request.prompt),
            response=request.response,
            group_id=sha256(prompt.encode("utf-8", "replace")).hexdigest()[:32],
            reference=openrlhf.reference_of(request.label),
        )
        return await self._reply_texts([rollout], copy, run, lambda s: self._rm(s[0], key))

    def _rm(self, score: Score, key: str | None) -> Any:
        reward = openrlhf.missing_reward(score, self._settings.stand_in)
        if key is None:
            return reward
        answer = ScoreAnswer.of([score])
        return {
            "judge_score": answer.judge_scores[0],
            "judge_status": score.status,
            "missing": not score.trainable,
            key: reward,
        }

    async def _reply_texts(
        self, rollouts: Sequence[Rollout], copy: int, run: str | None, format_scores: Format
    ) -> Reply:
        """Score rollouts of a protocol that carries only texts.

        A text that cannot be scored gets a missing score, not an HTTP error: after an error the
        clients retry, and then train without a reward.

        Raises:
            InvalidConfig: no rollout of this protocol can be scored under this configuration.
        """
        size = self._settings.group_size
        config = self._manager.config
        check_fits(config, who="the client", base_score=False, group_size=size, how="--group-size")
        refused = {
            row: error
            for row, rollout in enumerate(rollouts)
            if (error := _refusal(rollout, config)) is not None
        }
        options = self._options(size, copy, run)
        return await self._reply_except(refused, rollouts, options, format_scores)

    def _options(self, group_size: int | None, copy: int, run: str | None) -> dict[str, Any]:
        """Return the options of `score_many`; `run` is the one that the request names."""
        settings = self._settings
        named = settings.run if run is None else run
        options: dict[str, Any] = {**filed_under(named, "http", self._manager)}
        options["group_size"] = group_size
        # Trainings that share a server may use equal group ids.
        options["one_prompt"] = run is None
        if group_size is not None:
            # Leaves time to score an incomplete group before the answer is due.
            limit_s = GROUP_TIMEOUT_FRACTION * settings.timeout_s
            options["group_timeout_s"] = min(settings.group_timeout_s, limit_s)
            options["sample_id"] = str(copy)
        return options

    async def _reply_except(
        self,
        refused: Mapping[int, InvalidRollout],
        rollouts: Sequence[Rollout],
        options: Mapping[str, Any],
        format_scores: Format,
    ) -> Reply:
        """Score all rollouts except the refused ones, which get a missing score.

        Raises:
            InvalidRollout: another rollout is invalid; the message names its row.
        """
        if not refused:
            return await self._reply(rollouts, options, format_scores)
        config = self._manager.config
        rows = [row for row in range(len(rollouts)) if row not in refused]
        for row in rows:
            error = _refusal(rollouts[row], config)
            if error is not None:
                raise InvalidRollout(str(error).replace("rollouts[0]", f"rollouts[{row}]", 1))
        missing = {row: without_reward(error, config.reward) for row, error in refused.items()}

        def format_all(scored: list[Score]) -> Any:
            scores = missing | dict(zip(rows, scored, strict=True))
            return format_scores([scores[row] for row in range(len(rollouts))])

        if not rows:
            return Reply(content=format_all([]), complete=False, rollouts=len(rollouts))
        reply = await self._reply([rollouts[row] for row in rows], options, format_all)
        return replace(reply, complete=False)

    async def _reply(
        self, rollouts: Sequence[Rollout], options: Mapping[str, Any], format_scores: Format
    ) -> Reply:
        """Score, and answer within the timeout with the scores available by then."""
        pending = self._manager.score_many(rollouts, **options)
        try:
            scores = await pending.gather(self._settings.timeout_s, self._manager.config.reward)
            self._outages.count(scores)
        except (TimeoutError, OyerError) as error:
            return Reply(content={"error": str(error)}, status_code=503, complete=False)
        if self._settings.on_late == "retry" and not pending.done():
            late = f"a judge is late: not all scores came in {self._settings.timeout_s:g} s"
            return Reply(content={"error": late}, status_code=503, complete=False)
        complete = all(score.trainable for score in scores)
        return Reply(content=format_scores(scores), complete=complete, rollouts=len(scores))


def _refusal(rollout: Rollout, config: RewardConfig) -> InvalidRollout | None:
    try:
        validation.check([rollout], config)
    except InvalidRollout as error:
        return error
    return None
