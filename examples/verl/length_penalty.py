"""verl up to 0.7.0: `LengthPenaltyRewardManager` with the name and settings of the original.

In a fork's `main_ppo.py`, where the reward manager is created:

    reward_fn = make_reward_manager(tokenizer, num_examine=0, compute_score=compute_score)

To overlap phases, submit first and collect when advantages are computed:

    future = reward_fn.submit(batch)
    …                                   # old log-probs, reference, values
    reward_tensor = future.result()
"""

from typing import Any

from oyer.manager.verl import LengthPenaltyConfig, LengthPenaltyRewardManager


def make_reward_manager(
    tokenizer: Any, num_examine: int, compute_score: Any
) -> LengthPenaltyRewardManager:
    """Make the manager; it starts workers on this machine, with the key by variable name."""
    return LengthPenaltyRewardManager(
        tokenizer,
        num_examine,
        compute_score,
        reward_fn_key="data_source",
        length_penalty_config=LengthPenaltyConfig(
            use_async_io=True,
            api_key_env="DEEPSEEK_API_KEY",
            model_name="deepseek-v3",
            api_endpoint="https://api.deepseek.com/v1/chat/completions",
            max_concurrent_requests=128,
            reward_coefficient=0.1,
            peak_ratio=0.3,
            outer_ratio=0.5,
        ),
    )
