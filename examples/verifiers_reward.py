"""verifiers: a rubric function that raises where there is no score, so that nothing is trained on it.

rubric = vf.Rubric(funcs=[oyer_reward])
"""

from typing import Any

from oyer.manager import MissingScores, RewardManager, Rollout
from oyer.tasks.settings import load_config

manager = RewardManager(load_config())


async def oyer_reward(prompt: Any, completion: Any, answer: str = "", **_: Any) -> float:
    """Score one completion.

    Raises:
        MissingScores: there is no reward; verifiers marks the rollout as failed.
    """
    text = completion if isinstance(completion, str) else completion[-1]["content"]
    rollout = Rollout(prompt=prompt, response=text, reference=answer or None)
    score = await manager.score(rollout, run="verifiers")
    if not score.trainable:
        raise MissingScores(f"no reward ({score.status}): {score.error}")
    return score.reward
