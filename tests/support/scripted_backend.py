"""An embedded backend (Redis, SQLite, workers) with a scripted judge.

The fixtures work in folders whose `conftest.py` imports them.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from oyer.demo.judge_server import JudgeServer
from oyer.demo.request_log import RequestEntry
from oyer.demo.responses import Action
from oyer.manager import RewardManager
from tests.support.rollouts import rollout

__all__ = [
    "DEAD_JUDGE",
    "backend",
    "backend_changes",
    "by_response",
    "judge",
    "judge_says",
    "rollout",
    "running",
    "scripted_backend",
    "sibling",
    "user_text",
]


@contextlib.contextmanager
def scripted_backend(folder: Path, **changes: Any) -> Iterator[tuple[RewardManager, JudgeServer]]:
    """Run the backend; the endpoint `fake` is the judge, `dead` refuses connections."""
    with JudgeServer() as judge:
        config = {
            "endpoints": {
                "fake": {
                    "base_url": judge.base_url,
                    "max_in_flight": 32,
                    # No call of a busy machine may be repeated: tests count requests.
                    "timeout_s": 60,
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
    """Changes of the backend's configuration; a module overrides it."""
    return {}


@pytest.fixture
def judge_says() -> str:
    """The judge's reply unless a test sets a plan; a module overrides it."""
    return "Final score: 5"


@pytest.fixture(scope="module")
def running(
    shared_backend: Running, backend_changes: dict[str, Any], request: pytest.FixtureRequest
) -> Running:
    """A module's manager on the session's backend, and the judge.

    The judge's `version` is the module's name, so that no module reuses another one's judgements.
    """
    shared, judge = shared_backend
    (q,) = shared.config.model_dump(mode="json")["judges"]
    judges = [{**q, "version": request.module.__name__}]
    return sibling(shared, **{"judges": judges, "length": [], **backend_changes}), judge


@pytest.fixture
def backend(running: Running) -> RewardManager:
    """The manager of the module's backend."""
    return running[0]


@pytest.fixture
def judge(running: Running, judge_says: str) -> Iterator[JudgeServer]:
    """The judge of the module's backend, with an empty log and the default reply."""
    judge = running[1]
    judge.set_plan(Action(text=judge_says))
    judge.reset()
    yield judge
    # A call that stayed held would take one of the endpoint's permits from later tests.
    judge.set_plan(Action(text=judge_says))
    judge.release()


def sibling(manager: RewardManager, **changes: Any) -> RewardManager:
    """Make a manager with a changed configuration on the same backend."""
    return RewardManager({**manager.config.model_dump(mode="json"), **changes})


DEAD_JUDGE = {"name": "q", "endpoint": "dead", "model": "m", "reasks": 0}
"""A judge whose endpoint refuses every connection."""


def by_response(scores: dict[str, int]) -> Any:
    """Make a plan that scores each response by `scores`."""

    def plan(arrival: RequestEntry) -> Action:
        text = user_text(arrival)
        score = next(score for response, score in scores.items() if response in text)
        return Action(text=f"Final score: {score}")

    return plan


def user_text(arrival: RequestEntry) -> str:
    """Return the text of all messages of a request to the judge."""
    return "\n".join(content for _, content in arrival.messages())
