"""ROLL: the rewards of a batch from `oyer serve`, for a reward worker's `compute_rewards`.

    class OyerRewardWorker(LLMJudgeRewardWorker):
        @register(dispatch_mode=Dispatch.DP_MP_COMPUTE, clear_cache=False)
        def compute_rewards(self, data):
            scores = torch.tensor(rewards_of(data, self.tokenizer, "http://127.0.0.1:8780"))
            tokens = torch.zeros_like(data.batch["responses"], dtype=scores.dtype)
            return DataProto.from_dict(tensors={
                "token_level_rewards": tokens, "response_level_rewards": scores, "scores": scores})

and `worker_cls: my_module.OyerRewardWorker` in `rewards.<domain>`. ROLL dispatches a batch over
several workers, so the samples of a prompt arrive in several requests.

Which responses were cut is not handed over: length methods need `truncated: as_is`.
"""

import json
from typing import Any
from urllib.request import Request, urlopen


def rewards_of(data: Any, tokenizer: Any, url: str, num_return_sequences: int = 1) -> list[float]:
    """Return a reward per row; a missing one is the mean of its prompt's rows here, else of all."""
    prompts = tokenizer.batch_decode(data.batch["prompts"], skip_special_tokens=True)
    responses = tokenizer.batch_decode(data.batch["responses"], skip_special_tokens=True)
    masks = data.batch["response_mask"]
    references = data.non_tensor_batch.get("ground_truth", [None] * len(prompts))
    rollouts = [
        {
            "prompt": prompt,
            "response": response,
            "group_id": str(data_id),
            "response_tokens": int(sum(mask)),
            "reference": None if reference is None else str(reference) or None,
        }
        for prompt, response, data_id, mask, reference in zip(
            prompts, responses, data.non_tensor_batch["id"], masks, references, strict=True
        )
    ]
    body: dict[str, Any] = {
        "rollouts": rollouts,
        "run": "roll",
        "step": int(data.meta_info.get("global_step", 0)),
    }
    if num_return_sequences > 1:
        body["group_size"] = num_return_sequences
    request = Request(
        f"{url}/v1/score", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urlopen(request, timeout=300) as response:
        rewards = json.load(response)["rewards"]
    groups: dict[str, list[float]] = {}
    for rollout, reward in zip(rollouts, rewards, strict=True):
        if reward is not None:
            groups.setdefault(rollout["group_id"], []).append(reward)
    known = [reward for reward in rewards if reward is not None] or [0.0]
    means = {group: sum(one) / len(one) for group, one in groups.items()}
    neutral = sum(known) / len(known)
    return [
        means.get(rollout["group_id"], neutral) if reward is None else reward
        for rollout, reward in zip(rollouts, rewards, strict=True)
    ]
