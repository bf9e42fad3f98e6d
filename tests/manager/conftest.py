"""A trainer on a real Redis without workers: tests store the results of batches."""

import time
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import pytest
import redis

from oyer.manager import RewardFuture, RewardManager, Rollout
from oyer.manager.backend import recovery
from oyer.protocol.batch_result import BatchResult
from oyer.protocol.batch_store import BatchStore
from oyer.tasks.app import make_app
from tests.support.scripted_backend import backend, backend_changes, judge, judge_says, running

__all__ = ["backend", "backend_changes", "judge", "judge_says", "running"]
"""Fixtures for this folder's tests."""

JUDGE = {"name": "q", "endpoint": "e", "model": "m"}


class Workers:
    """Stores the results of batches through Celery's result backend, as workers do."""

    def __init__(self, url: str) -> None:
        self.redis = redis.Redis.from_url(url)
        self.exchange = BatchStore(self.redis, expires_s=600)
        self._app = make_app(url)

    def succeed(self, batch_id: str, **changed: Any) -> None:
        """Store what `combine` returns."""
        self._app.backend.store_result(
            batch_id, outcome_of(batch_id, **changed).to_wire(), "SUCCESS"
        )

    def fail(self, batch_id: str, error: Exception) -> None:
        """Store an error."""
        self._app.backend.store_result(batch_id, error, "FAILURE")

    def store(self, batch_id: str, result: Any) -> None:
        """Store any result."""
        self._app.backend.store_result(batch_id, result, "SUCCESS")

    def keys(self) -> set[bytes]:
        """Return the keys in Redis."""
        return set(self.redis.scan_iter())

    def report(self, batch_id: str, judged: int) -> None:
        """Report the progress of the only chunk."""
        self.exchange.report(batch_id, 0, judged)

    def wait_for_sent(self, messages: int, queue: str = "judge") -> None:
        """Wait until a queue has this many messages."""
        deadline = time.monotonic() + 60
        while self.sent(queue) < messages:
            assert time.monotonic() < deadline, f"{self.sent(queue)} of {messages} messages"
            time.sleep(0.005)

    def sent(self, queue: str = "judge") -> int:
        """Count the messages of a queue."""
        return int(self.redis.llen(queue))


def outcome_of(batch_id: str, n: int = 4, **changed: Any) -> BatchResult:
    """Make what `combine` returns for `n` rollouts, all scored 8."""
    floats = np.ones(n, dtype=np.float32)
    fields: dict[str, Any] = {
        "batch_id": batch_id,
        "rewards": 1.8 * floats,
        "unshaped_rewards": 1.8 * floats,
        "judge_scores": 8 * floats,
        "mask": floats > 0,
        "statuses": ["scored"] * n,
        "terms": {"base_score": floats, "judge": 0.8 * floats},
        "usage": {"calls": n, "prompt_tokens": 40, "completion_tokens": 8, "cost_usd": 0.5},
        "first_errors": {},
    }
    return BatchResult(**{**fields, **changed})


def rollouts_of(n: int = 4) -> list[Rollout]:
    """Make rollouts of one group."""
    return [Rollout(prompt="p", response=f"r{i}", group_id="g", base_score=1.0) for i in range(n)]


@pytest.fixture
def workers(redis_url: str) -> Workers:
    return Workers(redis_url)


class Submit(Protocol):
    """Submits four rollouts under a configuration."""

    def __call__(self, **keys: Any) -> RewardFuture: ...


@pytest.fixture
def submit(redis_url: str) -> Callable[..., RewardFuture]:
    def submitted(**keys: Any) -> RewardFuture:
        config = {"judges": [JUDGE], "broker": {"url": redis_url}, **keys}
        return RewardManager(config).submit(rollouts_of())

    return submitted


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Resubmit failed batches at once."""
    monkeypatch.setattr(recovery, "FAILURE_PAUSES_S", (0.0,))
