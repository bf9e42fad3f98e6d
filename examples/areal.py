"""AReaL: await Oyer in a workflow's episode, where no 15 s limit turns a late judge into 0.

class JudgedWorkflow(RLVRWorkflow):
    async def arun_episode(self, engine, data):
        ...                                    # generate `completion` for `prompt`
        reward = await judged(prompt, completion, len(completion_ids), data["query_id"])
        if reward is None:
            return None                        # rejected: not trained on
"""

from oyer.manager import RewardManager, Rollout
from oyer.tasks.settings import load_config

manager = RewardManager(load_config())


async def judged(prompt: str, completion: str, tokens: int, group_id: str) -> float | None:
    """Score one completion; None where there is no reward."""
    rollout = Rollout(prompt=prompt, response=completion, response_tokens=tokens, group_id=group_id)
    score = await manager.score(rollout, run="areal")
    return score.reward if score.trainable else None
