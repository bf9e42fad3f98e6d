"""TRL and ms-swift adapter: `reward_function` makes a reward function from a configuration."""

from oyer.manager.trl.reward import RewardFunction, missing_reward, reward_function

__all__ = ["RewardFunction", "missing_reward", "reward_function"]
