"""OpenPipe ART 0.5: `after_each=judged` scores each group as soon as it is gathered.

    groups = await art.gather_trajectory_groups(
        (art.TrajectoryGroup(rollout(model, row) for _ in range(8)) for row in rows),
        after_each=judged,                                   # or evaluated
    )

`OYER_CONFIG` names the configuration. A reward that the rollout function set itself is added.

- Missing score: the trajectory leaves the group, which has a `MissingScores` among its exceptions,
  as for a rollout that failed; a group in which nothing has a score is left out.
- Components: `metrics["oyer/<judge or term>"]` of each trajectory.
- Groups: ART's own.
- Evaluation: `after_each=evaluated` writes the split `eval` on record.
"""

import functools
import uuid

import art
from openai.types.chat.chat_completion import Choice

from oyer.config.loading import load_config
from oyer.manager import MissingScores, RewardManager, Rollout
from oyer.manager.adapters import response_of, row_metadata
from oyer.manager.group_rewards import group_rewards
from oyer.protocol.content import as_messages

manager = RewardManager(load_config())


async def judged(
    group: art.TrajectoryGroup, *, run: str = "art", split: str = "train"
) -> art.TrajectoryGroup | None:
    """Score a group of trajectories."""
    group_id = uuid.uuid4().hex
    rewards = await group_rewards(
        manager,
        [rollout(trajectory, group_id) for trajectory in group],
        own=[trajectory.reward for trajectory in group],
        run=run,
        split=split,
    )
    kept: list[art.Trajectory | BaseException] = []
    for trajectory, reward in zip(group, rewards, strict=True):
        trajectory.metrics.update(reward.metrics)
        if reward.judged:
            trajectory.reward += reward.reward
            kept.append(trajectory)
        else:
            kept.append(MissingScores(f"{reward.score.status}: {reward.score.error}"))
    if not any(reward.judged for reward in rewards):
        return None
    scored = art.TrajectoryGroup(kept, metadata=group.metadata, metrics=group.metrics)
    scored.exceptions += group.exceptions
    return scored


evaluated = functools.partial(judged, split="eval")


def rollout(trajectory: art.Trajectory, group_id: str) -> Rollout:
    """Convert a trajectory: the policy's words are its choices, all else was given to it."""
    turns = trajectory.messages_and_choices
    own = [i for i, turn in enumerate(turns) if isinstance(turn, Choice)]
    start = own[0] if own else len(turns)
    messages = trajectory.messages()
    for i in range(start, len(turns)):
        if i not in own and messages[i]["role"] == "assistant":
            messages[i] = {**messages[i], "role": "user"}
    counts = [len(turns[i].logprobs.content or []) for i in own if turns[i].logprobs]
    return Rollout(
        prompt=as_messages(messages[:start]),
        response=response_of(messages[start:]),
        response_tokens=sum(counts) if len(counts) == len(own) and own else None,
        truncated=any(turns[i].finish_reason == "length" for i in own[-1:]),
        group_id=group_id,
        tools=trajectory.tools,
        metadata=row_metadata(trajectory.metadata, manager.config),
    )
