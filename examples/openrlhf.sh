# OpenRLHF 0.10 and later, over HTTP. All vLLM engines share one backend through the server.
# `oyer serve` answers within 100 s; OpenRLHF's client gives up after 180 s and tries five times.
set -eu

oyer up --config oyer.yaml &
oyer serve --config oyer.yaml --port 8780 &

python3 -m openrlhf.cli.train_ppo_ray \
    --reward.remote_url http://127.0.0.1:8780/get_reward \
    "$@"

# Alternatively in the engines' processes, with your own base score:
#   OYER_CONFIG=$PWD/oyer.yaml … --reward.remote_url examples/openrlhf_reward.py
