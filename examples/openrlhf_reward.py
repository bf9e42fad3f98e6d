"""The reward file for OpenRLHF's `--reward.remote_url`; `OYER_CONFIG` names the configuration."""

from oyer.config.loading import load_config
from oyer.manager.openrlhf import reward_function


def base_score(prompt: str, response: str, label: str) -> float:
    """Return 1 if the response ends with the label; rollouts with 0 are not judged."""
    return float(response.strip().endswith(str(label)))


reward_func = reward_function(load_config(), base_score=base_score)
