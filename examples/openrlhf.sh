# OpenRLHF 0.10 and later, by HTTP. The server shares one backend among all vLLM engines.
# `oyer serve` answers within 100 s; OpenRLHF's client gives up after 180 s and tries five times.
set -eu

oyer up --config oyer.yaml &
oyer serve --config oyer.yaml --port 8780 &

python3 -m openrlhf.cli.train_ppo_ray \
    --reward.remote_url http://127.0.0.1:8780/get_reward \
    "$@"

# In the engines' own processes instead, with a base score of your own:
#   OYER_CONFIG=$PWD/oyer.yaml … --reward.remote_url examples/openrlhf_reward.py
