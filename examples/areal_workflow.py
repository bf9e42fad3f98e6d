"""AReaL 1.0: a workflow that awaits Oyer.

`RLVRWorkflow` runs a reward function in a pool of few processes, one call in each, and turns one
that takes longer than 15 s into 0. A coroutine takes its place here. A rollout without a reward
raises, and AReaL rejects it: it is not trained on. `OYER_CONFIG` names the configuration, whose
length methods must be such that compare no rollouts: AReaL does not say which belong together.
"""

from typing import Any

from areal.workflow.rlvr import RLVRWorkflow

from oyer.config.loading import load_config
from oyer.manager import MissingScores, RewardManager, Rollout

manager = RewardManager(load_config())


class JudgedWorkflow(RLVRWorkflow):
    """Single turns that Oyer's judges score."""

    def __init__(self, **options: Any) -> None:
        super().__init__(reward_fn=self.judged, **options)
        self.async_reward_fn = self.judged

    async def judged(
        self,
        prompt: str,
        completions: str,
        prompt_ids: list[int],
        completion_ids: list[int],
        **data: Any,
    ) -> float:
        """Score one completion; `data` are the columns of its row.

        Raises:
            MissingScores: there is no reward.
        """
        rollout = Rollout(
            prompt=data.get("messages", prompt),
            # `completions` is decoded with the special tokens, which are not for a judge to read.
            response=self.tokenizer.decode(completion_ids, skip_special_tokens=True),
            response_tokens=len(completion_ids),
            reference=data.get("answer"),
        )
        score = await manager.score(rollout, run="areal")
        if not score.trainable:
            raise MissingScores(f"no reward ({score.status}): {score.error}")
        return score.reward
