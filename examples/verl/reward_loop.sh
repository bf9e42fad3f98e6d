# verl 0.7.1 and later: append these lines to the arguments of verl.trainer.main_ppo.
# The base score is still reward.custom_reward_function, or verl's default by data_source.
set -eu

python3 -m verl.trainer.main_ppo \
    reward.num_workers=8 \
    reward.reward_manager.source=importlib \
    reward.reward_manager.name=RewardManager \
    reward.reward_manager.module.path=pkg://oyer.manager.verl \
    +reward.reward_kwargs.oyer.config="$PWD/oyer.yaml" \
    +reward.reward_kwargs.oyer.run=tool-n1 \
    +reward.reward_kwargs.oyer.timeout_s=300 \
    +reward.reward_kwargs.oyer.on_missing=neutral \
    "$@"
