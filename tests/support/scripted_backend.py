"""A whole embedded backend with a scripted judge behind it, and rollouts for it.

The fixtures are there for the folders whose `conftest.py` names them.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from oyer.demo.judge_server import JudgeServer
from oyer.demo.request_log import RequestEntry
from oyer.demo.responses import Action
from oyer.manager import RewardManager, Rollout


@contextlib.contextmanager
def scripted_backend(folder: Path, **changes: Any) -> Iterator[tuple[RewardManager, JudgeServer]]:
    """Run Redis, SQLite and workers whose endpoint `fake` is the judge; `dead` answers nobody."""
    with JudgeServer() as judge:
        config = {
            "endpoints": {
                "fake": {
                    "base_url": judge.base_url,
                    "max_in_flight": 32,
                    "timeout_s": 5,
                    "max_attempts": 2,
                },
                "dead": {"base_url": "http://127.0.0.1:9/v1", "max_attempts": 1},
            },
            "judges": [{"name": "q", "endpoint": "fake", "model": "m", "reasks": 0}],
            "store": {"url": f"sqlite:///{folder / 'oyer.db'}"},
            **changes,
        }
        with RewardManager.local(config, folder=folder, judge_processes=1) as manager:
            yield manager, judge


Running = tuple[RewardManager, JudgeServer]


@pytest.fixture(scope="module")
def backend_changes() -> dict[str, Any]:
    """Change the backend's configuration: for a module to override."""
    return {}


@pytest.fixture
def judge_says() -> str:
    """Say what the judge replies unless a test plans otherwise: for a module to override."""
    return "Final score: 5"


@pytest.fixture(scope="module")
def running(
    tmp_path_factory: pytest.TempPathFactory, backend_changes: dict[str, Any]
) -> Iterator[Running]:
    """Share one backend and its judge among a module's tests."""
    with scripted_backend(tmp_path_factory.mktemp("backend"), **backend_changes) as both:
        yield both


@pytest.fixture
def backend(running: Running) -> RewardManager:
    return running[0]


@pytest.fixture
def judge(running: Running, judge_says: str) -> JudgeServer:
    """The judge with an empty log."""
    running[1].set_plan(Action(text=judge_says))
    running[1].reset()
    return running[1]


def sibling(manager: RewardManager, **changes: Any) -> RewardManager:
    """Make a manager with other judges, lengths or rules on the same backend."""
    return RewardManager({**manager.config.model_dump(mode="json"), **changes})


DEAD_JUDGE = {"name": "q", "endpoint": "dead", "model": "m", "reasks": 0}
"""A judge whose endpoint refuses every connection."""


def by_response(scores: dict[str, int]) -> Any:
    """A plan that scores a request by the response to judge, looked for among `scores`."""

    def plan(arrival: RequestEntry) -> Action:
        text = user_text(arrival)
        score = next(score for response, score in scores.items() if response in text)
        return Action(text=f"Final score: {score}")

    return plan


def user_text(arrival: RequestEntry) -> str:
    """Every word that the judge was sent."""
    return "\n".join(content for _, content in arrival.messages())


def rollout(tag: str, i: int = 0, **fields: Any) -> Rollout:
    """Make a rollout that differs from those of other tags and numbers; groups of four."""
    made: dict[str, Any] = {
        "prompt": f"{tag} question {i // 4}",
        "response": f"{tag}: the answer number {i} is {i}.",
        "group_id": f"{tag}-{i // 4}",
        "base_score": 1.0,
        "response_tokens": 100 + 10 * i,
    }
    return Rollout(**{**made, **fields})
