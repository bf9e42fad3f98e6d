"""The scoring routes: what a request asks for, and how its scores are worded."""

import json
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from typing import Any

from oyer.manager import OyerError, RewardManager, Rollout, openrlhf
from oyer.manager.score import Score
from oyer.server.replies import Reply
from oyer.server.schemas import GetRewardRequest, RemoteRequest, ScoreAnswer, ScoreRequest
from oyer.server.settings import ServerSettings

Worded = Callable[[list[Score]], Any]


class Scoring:
    """Scores requests through one manager."""

    def __init__(self, manager: RewardManager, settings: ServerSettings) -> None:
        self._manager = manager
        self._settings = settings

    async def score(self, body: bytes, query: Mapping[str, str]) -> Reply:
        """`POST /v1/score`: a batch, in whole groups or, with `group_size`, in parts."""
        request = ScoreRequest.model_validate_json(body)
        rollouts = [item.rollout() for item in request.rollouts]
        where = {
            "run": request.run or self._settings.run,
            "step": request.step,
            "group_size": request.group_size,
        }
        return await self._reply(
            rollouts, where, lambda scores: ScoreAnswer.of(scores).model_dump(mode="json")
        )

    async def get_reward(self, body: bytes, query: Mapping[str, str]) -> Reply:
        """`POST /get_reward`: OpenRLHF's remote reward model."""
        request = GetRewardRequest.model_validate_json(body)
        rollouts = openrlhf.rollouts_of(request.query, request.prompts, request.labels)
        config, stand_in = self._manager.config, self._settings.stand_in
        return await self._reply(
            rollouts, self._alone(), lambda scores: openrlhf.answer(scores, config, stand_in)
        )

    async def remote_rm(self, body: bytes, query: Mapping[str, str]) -> Reply:
        """`POST /rm`: slime's `remote_rm`; `?key=NAME` asks for a dict with the reward under it."""
        request = RemoteRequest.model_validate_json(body)
        prompt = request.prompt if isinstance(request.prompt, str) else json.dumps(request.prompt)
        rollout = Rollout(
            prompt=request.prompt,
            response=request.response,
            group_id=sha256(prompt.encode("utf-8", "replace")).hexdigest()[:32],
            reference=openrlhf.reference_of(request.label),
        )
        return await self._reply([rollout], self._alone(), lambda s: self._rm(s[0], query))

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

    def _alone(self) -> dict[str, Any]:
        """Where a rollout belongs whose protocol says nothing about it."""
        settings = self._settings
        return {
            "run": settings.run,
            "group_size": settings.group_size,
            "group_timeout_s": settings.group_timeout_s,
        }

    async def _reply(
        self, rollouts: Sequence[Rollout], where: Mapping[str, Any], worded: Worded
    ) -> Reply:
        """Score and answer in time, with what is there by then."""
        pending = self._manager.score_many(rollouts, **where)
        try:
            scores = await pending.gather(self._settings.timeout_s, self._manager.config.reward)
        except (TimeoutError, OyerError) as error:
            return Reply(content={"error": str(error)}, status_code=503, complete=False)
        if self._settings.on_late == "retry" and not pending.done():
            late = f"a judge is late: not all scores came in {self._settings.timeout_s:g} s"
            return Reply(content={"error": late}, status_code=503, complete=False)
        complete = all(score.trainable for score in scores)
        return Reply(content=worded(scores), complete=complete, rollouts=len(scores))
