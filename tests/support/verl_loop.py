"""Manager and trajectories for the tests of verl's reward loop."""

import asyncio
from typing import Any

from oyer.manager.verl import RewardManager
from tests.support.verl_data import FakeDataProto, Tokens, base_from_extra_info, data_proto


def manager_of(
    tokens: Tokens,
    oyer: dict[str, Any],
    *,
    compute_score: Any = base_from_extra_info,
    n: int | None = None,
    val_n: int | None = None,
    **options: Any,
) -> RewardManager:
    """Instantiate as `verl.trainer.ppo.reward.load_reward_manager` does."""
    config = {
        "reward": {"reward_kwargs": {"oyer": {"config": oyer, **options}}},
        "actor_rollout_ref": {"rollout": {"n": n, "val_kwargs": {"n": val_n}}},
    }
    return RewardManager(
        config=config,
        tokenizer=tokens,
        compute_score=compute_score,
        reward_router_address=None,
        reward_model_tokenizer=None,
    )


def trajectories(tokens: Tokens, tag: str, lengths: list[int], **columns: Any) -> FakeDataProto:
    """Lay out the rollouts of one prompt."""
    n = len(lengths)
    given = {"uid": [tag] * n, "extra_info": [{"base": 1.0}] * n, **columns}
    return data_proto(tokens, [f"{tag}?"] * n, [f"{tag} {i}." for i in range(n)], lengths, **given)


def scored(manager: RewardManager, data: FakeDataProto) -> list[dict[str, Any]]:
    """Call once per row, all at once, as an agent loop does."""

    async def main() -> list[dict[str, Any]]:
        calls = (manager.run_single(data[i : i + 1]) for i in range(len(data)))
        return await asyncio.gather(*calls)

    return asyncio.run(main())
