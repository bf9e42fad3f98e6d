"""Settings, manager and rows for the tests of verl's replaced (legacy) reward manager."""

from typing import Any

from oyer.demo.judge_server import JudgeServer
from oyer.manager import RewardManager
from oyer.manager.verl import LengthPenaltyConfig, LengthPenaltyRewardManager
from tests.support.verl_data import FakeDataProto, Tokens, base_from_extra_info, data_proto


def place_of(name: str, backend: RewardManager, judge: JudgeServer) -> dict[str, Any]:
    """Give the settings for judging by `workers`, or in the process."""
    if name == "workers":
        return {"use_async_io": True, "broker_url": backend.config.broker.url, "endpoint": "fake"}
    return {"api_endpoint": f"{judge.base_url}/chat/completions", "api_key": "sk-in-the-process"}


def manager_of(tokens: Tokens, **settings: Any) -> LengthPenaltyRewardManager:
    return LengthPenaltyRewardManager(
        tokens,
        num_examine=0,
        compute_score=base_from_extra_info,
        length_penalty_config=LengthPenaltyConfig(rubric="reasoning_en", **settings),
    )


def rows(tokens: Tokens, tag: str, n: int = 4, base: float = 1.0) -> FakeDataProto:
    return data_proto(
        tokens,
        [f"{tag}?"] * n,
        [f"{tag} answer {i}." for i in range(n)],
        [10 + i for i in range(n)],
        uid=["g"] * n,
        extra_info=[{"base": base}] * n,
    )
