"""verl adapter: the reward loop of verl 0.7.1 and later, and the batch manager of earlier releases.

    reward.reward_manager.source=importlib
    reward.reward_manager.name=RewardManager
    reward.reward_manager.module.path=pkg://oyer.manager.verl
    +reward.reward_kwargs.oyer.config=/path/to/oyer.yaml

Importing this loads neither verl nor torch; a `DataProto` is duck-typed.
"""

from oyer.manager.verl.batch import LengthPenaltyRewardManager, VerlFuture
from oyer.manager.verl.loop import RewardManager, VerlOptions, missing_reward
from oyer.manager.verl.settings import LengthPenaltyConfig

__all__ = [
    "LengthPenaltyConfig",
    "LengthPenaltyRewardManager",
    "RewardManager",
    "VerlFuture",
    "VerlOptions",
    "missing_reward",
]
