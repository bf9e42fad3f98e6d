"""A whole backend with real workers, and a scripted judge behind it."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from oyer.demo.judge_server import JudgeServer
from oyer.manager import RewardManager, Rollout


@pytest.fixture(scope="session")
def judge() -> Iterator[JudgeServer]:
    """A judge endpoint, shared by a session; a test sets its plan."""
    with JudgeServer() as server:
        yield server


@pytest.fixture(autouse=True)
def _fresh_plan(judge: JudgeServer) -> None:
    judge.set_plan({})
    judge.reset()


@pytest.fixture(scope="session")
def base_config(judge: JudgeServer) -> dict[str, Any]:
    """The configuration that the shared backend runs with."""
    return {
        "endpoints": {
            "fake": {
                "base_url": judge.base_url,
                "max_in_flight": 32,
                "timeout_s": 2,
                "max_attempts": 2,
            },
            "dead": {"base_url": "http://127.0.0.1:9/v1", "max_attempts": 1},
        },
        "judges": [{"name": "q", "endpoint": "fake", "model": "m", "reasks": 0}],
        "length": {"method": "median_band"},
    }


@pytest.fixture(scope="session", params=["sqlite", "postgres"])
def backend(
    request: pytest.FixtureRequest,
    base_config: dict[str, Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[RewardManager]:
    """A manager on an embedded backend, once with each store."""
    folder = tmp_path_factory.mktemp("backend")
    if request.param == "sqlite":
        url = f"sqlite:///{folder / 'oyer.db'}"
    else:
        url = request.getfixturevalue("postgres_service")
    with RewardManager.local({**base_config, "store": {"url": url}}, folder=folder) as manager:
        yield manager


@pytest.fixture
def sibling(backend: RewardManager) -> Callable[..., RewardManager]:
    """Make managers with other judges, lengths or rules on the same backend."""

    def make(**changes: Any) -> RewardManager:
        config = backend.config.model_dump(mode="json")
        return RewardManager({**config, **changes})

    return make


def rollouts_of(tag: str, n: int = 8, **fields: Any) -> list[Rollout]:
    """Make distinct rollouts in groups of four."""
    return [
        Rollout(
            **{
                "prompt": f"{tag} question {i // 4}",
                "response": f"{tag}: the answer number {i} is {i}.",
                "group_id": f"{tag}-{i // 4}",
                "base_score": 1.0,
                "response_tokens": 100 + 10 * i,
                **fields,
            }
        )
        for i in range(n)
    ]
