"""Steps of ms-swift's own reward computation with the example's plug-in; prints their rewards.

Run alone: importing ms-swift changes TRL and transformers for the whole process.

    python swift_steps.py 'steps as JSON: of each rollout, question, turns, tokens, and why it ended'
"""

import json
import sys
from types import SimpleNamespace
from typing import Any

import torch
from swift.infer_engine.protocol import (
    ChatCompletionResponse,
    ChatCompletionResponseChoice,
    ChatMessage,
    RolloutOutput,
    UsageInfo,
)
from swift.rewards import AsyncORM, orms
from swift.rl_core.data import GRPOSample
from swift.rl_core.grpo_algorithm import compute_rewards_per_func
from swift.utils import import_external_file
from trainer_backend import ROOT


def sample(question: str, turns: list[str], tokens: int, reason: str = "stop") -> GRPOSample:
    """Give a sample as it is after the rollout."""
    row = {"messages": [{"role": "user", "content": question}], "prompt_id": question}
    made = GRPOSample.from_row({**row, "solution": "42"})
    message = ChatMessage(role="assistant", content=turns[-1])
    single = len(turns) == 1
    choice = ChatCompletionResponseChoice(
        0, message, reason, token_ids=[7] * tokens if single else None
    )
    response = ChatCompletionResponse("policy", [choice], UsageInfo(1, tokens, 1 + tokens))
    history: list[dict[str, Any]] = list(made.messages)
    for turn in turns:
        history += [{"role": "assistant", "content": turn}, {"role": "user", "content": "Go on."}]
    ids = [[7] * (tokens - len(turns) + 1), *([7] for _ in turns[1:])]
    scheduled = {} if single else {"messages": history[:-1], "response_token_ids": ids}
    made.apply_rollout_output(rollout_output=RolloutOutput(response=response, **scheduled))
    return made


def main() -> None:
    """Load the plug-in as `--external_plugins` does, and reward each step."""
    import_external_file(str(ROOT / "examples" / "ms_swift.py"))
    reward = orms["oyer"](args=SimpleNamespace(num_generations=4))
    assert isinstance(reward, AsyncORM)
    steps = []
    for number, rollouts in enumerate(json.loads(sys.argv[1])):
        rewards = compute_rewards_per_func(
            [sample(*rollout) for rollout in rollouts],
            [reward],
            [None],
            torch.device("cpu"),
            trainer_state=SimpleNamespace(global_step=number),
        )
        steps.append(rewards[:, 0].tolist())
    print(json.dumps(steps))


if __name__ == "__main__":
    main()
