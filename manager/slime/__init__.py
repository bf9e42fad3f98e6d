"""slime and miles adapter: reward functions for `--custom-rm-path`, and the reward post-process.

    --custom-rm-path oyer.manager.slime.custom_rm
    --custom-reward-post-process-path oyer.manager.slime.post_process
    --custom-rollout-log-function-path oyer.manager.slime.log_rollout

- `OYER_CONFIG` names the configuration file; the other settings come from the trainer's arguments.
- slime has no missing reward: the sample gets a neutral number, `remove_sample` excludes it from the
  loss, `post_process` from its group's mean, and `metadata["judge_status"]` has the reason.
"""

from oyer.manager.slime.metrics import log_rollout
from oyer.manager.slime.normalise import post_process
from oyer.manager.slime.reward import custom_rm, group_rm, missing_reward

__all__ = ["custom_rm", "group_rm", "log_rollout", "missing_reward", "post_process"]
