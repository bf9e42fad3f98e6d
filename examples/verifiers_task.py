"""verifiers 0.4: a task whose reward raises if there is no score, which excludes the trace."""

from typing import Any

import verifiers.v1 as vf

from oyer.config.loading import load_config
from oyer.manager import MissingScores, RewardManager, Rollout

manager = RewardManager(load_config())


class JudgedTask(vf.Task[vf.TaskData]):
    """A task that Oyer's judges score."""

    @vf.reward
    async def oyer(self, trace: Any) -> float:
        """Score the last reply.

        Raises:
            MissingScores: there is no reward; verifiers keeps the trace out of training.
        """
        rollout = Rollout(prompt=self.data.prompt_text, response=trace.last_reply)
        score = await manager.score(rollout, run="verifiers")
        if not score.trainable:
            raise MissingScores(f"no reward ({score.status}): {score.error}")
        return score.reward
