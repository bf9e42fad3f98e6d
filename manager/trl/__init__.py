"""TRL and ms-swift adapter: `reward_function` makes a reward function from a configuration."""

from oyer.manager.trl.overlapped import OverlappedRewards
from oyer.manager.trl.reward import (
    RewardFunction,
    masked_with,
    missing_reward,
    reward_function,
    reward_functions,
)

__all__ = [
    "OverlappedRewards",
    "RewardFunction",
    "masked_with",
    "missing_reward",
    "reward_function",
    "reward_functions",
]
