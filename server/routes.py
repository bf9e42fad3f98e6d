"""The scoring routes: what a request asks for, and how its scores are worded."""

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

GROUP_SHARE = 0.6
"""Part of the time for an answer that a group may wait for its last rollout."""

Worded = Callable[[list[Score]], Any]


class Scoring:
    """Scores requests through one manager."""

    def __init__(self, manager: RewardManager, settings: ServerSettings) -> None:
        streamed, self._outages = one_by_one(manager.config)
        self._manager = manager.under(streamed)
        self._settings = settings

    async def score(self, body: bytes, query: Mapping[str, str], copy: int) -> Reply:
        """`POST /v1/score`: a batch, in whole groups or, with `group_size`, in parts."""
        request = ScoreRequest.model_validate(read_json(body))
        rollouts = [item.rollout() for item in request.rollouts]
        run = request.run or query.get("run")
        where = {**self._where(request.group_size, copy, run), "step": request.step}
        refused = {
            row: InvalidRollout(
                f"rollouts[{row}]: a text holds a lone surrogate; send valid Unicode"
            )
            for row, rollout in enumerate(rollouts)
            if validation.has_broken_text(rollout)
        }
        return await self._reply_but(
            refused, rollouts, where, lambda scores: ScoreAnswer.of(scores).model_dump(mode="json")
        )

    async def get_reward(self, body: bytes, query: Mapping[str, str], copy: int) -> Reply:
        """`POST /get_reward`: OpenRLHF's remote reward model."""
        request = GetRewardRequest.model_validate(read_json(body))
        rollouts = openrlhf.rollouts_of(request.query, request.prompts, request.labels)
        config, stand_in = self._manager.config, self._settings.stand_in
        if not rollouts:
            return Reply(content=openrlhf.answer([], config), rollouts=0)
        return await self._reply_alone(
            rollouts, copy, query, lambda scores: openrlhf.answer(scores, config, stand_in)
        )

    async def remote_rm(self, body: bytes, query: Mapping[str, str], copy: int) -> Reply:
        """`POST /rm`: slime's `remote_rm`; `?key=NAME` asks for a dict with the reward under it."""
        request = RemoteRequest.model_validate(read_json(body))
        prompt = request.prompt if isinstance(request.prompt, str) else json.dumps(request.prompt)
        rollout = Rollout(
            prompt=plain_messages(request.prompt),
            response=request.response,
            group_id=sha256(prompt.encode("utf-8", "replace")).hexdigest()[:32],
            reference=openrlhf.reference_of(request.label),
        )
        return await self._reply_alone([rollout], copy, query, lambda s: self._rm(s[0], query))

    def _rm(self, score: Score, query: Mapping[str, str]) -> Any:
        reward = openrlhf.missing_reward(score, self._settings.stand_in)
        if "key" not in query:
            return reward
        answer = ScoreAnswer.of([score])
        return {
            "judge_score": answer.judge_scores[0],
            "judge_status": score.status,
            "missing": not score.trainable,
            query["key"]: reward,
        }

    async def _reply_alone(
        self, rollouts: Sequence[Rollout], copy: int, query: Mapping[str, str], worded: Worded
    ) -> Reply:
        """Score rollouts whose protocol says nothing but their texts.

        A text that cannot be scored is answered like a missing score: the clients would only ask
        for it again, and then train on without a reward.

        Raises:
            InvalidConfig: under this configuration none of them could be scored.
        """
        size = self._settings.group_size
        config = self._manager.config
        check_fits(config, who="the client", base_score=False, group_size=size, how="--group-size")
        refused = {
            row: error
            for row, rollout in enumerate(rollouts)
            if (error := _refusal(rollout, config)) is not None
        }
        where = self._where(size, copy, query.get("run"))
        return await self._reply_but(refused, rollouts, where, worded)

    def _where(self, group_size: int | None, copy: int, run: str | None) -> dict[str, Any]:
        """Where rollouts belong that are part of a group, if they are; `run` as the request says."""
        settings = self._settings
        named = settings.run if run is None else run
        where: dict[str, Any] = {**filed_under(named, "http", self._manager)}
        where["group_size"] = group_size
        # Several trainings may ask one server, and each numbers its groups from 0.
        where["one_prompt"] = run is None
        if group_size is not None:
            # In time for an answer with the length terms of those that are there.
            limit_s = GROUP_SHARE * settings.timeout_s
            where["group_timeout_s"] = min(settings.group_timeout_s, limit_s)
            where["sample_id"] = str(copy)
        return where

    async def _reply_but(
        self,
        refused: Mapping[int, InvalidRollout],
        rollouts: Sequence[Rollout],
        where: Mapping[str, Any],
        worded: Worded,
    ) -> Reply:
        """Score the rollouts but those refused, which are answered like missing scores.

        Raises:
            InvalidRollout: names the row of another rollout that is wrong.
        """
        if not refused:
            return await self._reply(rollouts, where, worded)
        config = self._manager.config
        rows = [row for row in range(len(rollouts)) if row not in refused]
        for row in rows:
            error = _refusal(rollouts[row], config)
            if error is not None:
                raise InvalidRollout(str(error).replace("rollouts[0]", f"rollouts[{row}]", 1))
        missing = {row: without_reward(error, config.reward) for row, error in refused.items()}

        def whole(found: list[Score]) -> Any:
            scores = missing | dict(zip(rows, found, strict=True))
            return worded([scores[row] for row in range(len(rollouts))])

        if not rows:
            return Reply(content=whole([]), complete=False, rollouts=len(rollouts))
        reply = await self._reply([rollouts[row] for row in rows], where, whole)
        return replace(reply, complete=False)

    async def _reply(
        self, rollouts: Sequence[Rollout], where: Mapping[str, Any], worded: Worded
    ) -> Reply:
        """Score and answer in time, with what is there by then."""
        pending = self._manager.score_many(rollouts, **where)
        try:
            scores = await pending.gather(self._settings.timeout_s, self._manager.config.reward)
            self._outages.count(scores)
        except (TimeoutError, OyerError) as error:
            return Reply(content={"error": str(error)}, status_code=503, complete=False)
        if self._settings.on_late == "retry" and not pending.done():
            late = f"a judge is late: not all scores came in {self._settings.timeout_s:g} s"
            return Reply(content={"error": late}, status_code=503, complete=False)
        complete = all(score.trainable for score in scores)
        return Reply(content=worded(scores), complete=complete, rollouts=len(scores))


def _refusal(rollout: Rollout, config: RewardConfig) -> InvalidRollout | None:
    try:
        validation.check([rollout], config)
    except InvalidRollout as error:
        return error
    return None
