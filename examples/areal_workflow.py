"""AReaL 1.0: a workflow that awaits Oyer.

`RLVRWorkflow` runs a reward function in a small process pool and turns calls of more than 15 s into
0, so this workflow uses a coroutine instead. A rollout without a reward raises, and AReaL rejects it.
`OYER_CONFIG` names the configuration. Its length methods must not compare rollouts, because AReaL
does not pass group ids.
"""

from typing import Any

from areal.workflow.rlvr import RLVRWorkflow

from oyer.config.loading import load_config
from oyer.manager import MissingScores, RewardManager, Rollout

manager = RewardManager(load_config())


class JudgedWorkflow(RLVRWorkflow):
    """Single-turn rollouts scored by Oyer's judges."""

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
            # `completions` contains special tokens, which the judge should not see.
            response=self.tokenizer.decode(completion_ids, skip_special_tokens=True),
            response_tokens=len(completion_ids),
            reference=data.get("answer"),
        )
        score = await manager.score(rollout, run="areal")
        if not score.trainable:
            raise MissingScores(f"no reward ({score.status}): {score.error}")
        return score.reward
