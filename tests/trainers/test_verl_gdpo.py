"""`batch.advantages_gdpo` gives the advantages of verl's own GDPO."""

import math
from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from verl.trainer.ppo.core_algos import compute_gdpo_outcome_advantage

from oyer.manager import BatchUsage, RewardBatch


def batch_of(groups: list[int], columns: dict[str, list[float]]) -> RewardBatch:
    n = len(groups)
    ones = np.ones(n, dtype=np.float32)
    batch = RewardBatch(
        id="b",
        rewards=ones,
        unshaped_rewards=ones,
        judge_scores=ones,
        mask=ones > 0,
        statuses=["scored"] * n,
        terms={},
        usage=BatchUsage(calls=n, prompt_tokens=0, completion_tokens=0, cost_usd=0.0),
        first_errors={},
        groups=groups,
    )
    return replace(batch, components={k: np.array(v, np.float32) for k, v in columns.items()})


def of_verl(
    groups: list[int], columns: dict[str, list[float]], weights: dict[str, float], tokens: int
) -> Any:
    """Return verl's advantages, `[N]`, of responses of this many tokens each."""
    n = len(groups)
    mask = torch.ones(n, tokens)
    advantages, _ = compute_gdpo_outcome_advantage(
        token_level_rewards=torch.zeros(n, tokens),
        response_mask=mask,
        index=np.array([f"uid {group}" for group in groups], dtype=object),
        config=OmegaConf.create(
            {"gdpo_reward_keys": list(weights), "gdpo_reward_weights": list(weights.values())}
        ),
        non_tensor_batch={name: np.array(values) for name, values in columns.items()},
        batch={
            "prompts": torch.zeros(n, 1),
            "attention_mask": torch.ones(n, 1 + tokens, dtype=torch.int64),
        },
    )
    return advantages[:, 0].numpy()


def drawn(seed: int) -> tuple[list[int], dict[str, list[float]], dict[str, float]]:
    """Draw groups of two to five rollouts, mixed, with values that float32 holds exactly."""
    random = Random(seed)
    groups = [g for g in range(random.randint(1, 4)) for _ in range(random.randint(2, 5))]
    random.shuffle(groups)
    names = ["oyer/q", "oyer/rubric/steps"][: random.randint(1, 2)]
    columns = {name: [random.randint(-8, 8) / 4 for _ in groups] for name in names}
    return groups, columns, {name: random.choice([0.5, 1.0, 3.0]) for name in names}


EXAMPLES = [
    ([0, 0, 1, 1], {"oyer/q": [2.0] * 4}, {"oyer/q": 1.0}),
    ([0, 0, 1, 1], {"oyer/q": [1.0, 1.0, 2.0, 3.0]}, {"oyer/q": 1.0}),
    *map(drawn, range(100)),
]


@pytest.mark.parametrize("tokens", [1, 3])
@pytest.mark.parametrize(("groups", "columns", "weights"), EXAMPLES)
def test_the_advantages_are_verl_s(
    groups: list[int], columns: dict[str, list[float]], weights: dict[str, float], tokens: int
) -> None:
    n = len(groups)
    found = batch_of(groups, columns).advantages_gdpo(weights)
    # verl divides the sum of squares by the number of tokens less one, not of rollouts.
    found = found * math.sqrt((n * tokens - 1) / (n * tokens - tokens))
    np.testing.assert_allclose(found, of_verl(groups, columns, weights, tokens), atol=1e-4)
