"""A batch of eight rollouts in two groups."""

from dataclasses import replace

import numpy as np

from oyer.manager import RewardBatch, Rollout
from oyer.protocol.batch_result import BatchResult


def batch_of(batch_id: str = "b1", reward: float = 1.5) -> RewardBatch:
    """Return a batch: the first group has equal rewards, the last rollout has no score."""
    n = 8
    rewards = np.array([reward] * 4 + [1.0, 2.0, 3.0, np.nan], dtype=np.float32)
    result = BatchResult(
        batch_id=batch_id,
        rewards=rewards,
        unshaped_rewards=rewards,
        judge_scores=rewards,
        mask=np.isfinite(rewards),
        statuses=["scored"] * 7 + ["timeout"],
        terms={"judge": rewards},
        usage={"calls": 9, "prompt_tokens": 90, "completion_tokens": 9, "cost_usd": 0.25},
        first_errors={"timeout": "no answer within 5 s"},
        scores={"quality": rewards},
        groups=[0] * 4 + [1] * 4,
        judge_latency_ms={"p50": 100.0, "p95": 900.0},
        reasons={i: f"reason {i}: 7 | 10\nFinal score: 7" for i in range(n)},
    )
    rollouts = [Rollout(prompt=f"prompt {i}", response=f"response {i}") for i in range(n)]
    return replace(RewardBatch.of(BatchResult.from_wire(result.to_wire())), rollouts=rollouts)
