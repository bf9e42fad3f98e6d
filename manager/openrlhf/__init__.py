"""OpenRLHF adapter: `reward_func` for `--reward.remote_url`, and the answers of `oyer serve`.

    --reward.remote_url /path/to/examples/openrlhf_reward.py     # judged through this process
    --reward.remote_url http://127.0.0.1:8780/get_reward         # judged through `oyer serve`

OpenRLHF has no missing reward: it gets a neutral number, and `oyer_missing` in `extra_logs` marks it.
It sends decoded tokens: a response without an end mark hit the length limit.
"""

from oyer.manager.openrlhf.number_answers import answer, missing_reward
from oyer.manager.openrlhf.reward import (
    group_id_of,
    reference_of,
    reward_func,
    reward_function,
    rows_of,
)

__all__ = [
    "answer",
    "group_id_of",
    "missing_reward",
    "reference_of",
    "reward_func",
    "reward_function",
    "rows_of",
]
