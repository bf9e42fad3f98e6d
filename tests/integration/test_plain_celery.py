"""A trainer polls a batch with plain Celery."""

from typing import Any

import numpy as np
import pytest
from celery import Celery
from celery.result import AsyncResult

from oyer.demo.judge_server import JudgeServer
from oyer.demo.responses import Action
from oyer.manager import BatchCancelled, RewardBatch, RewardManager
from tests.support.rollouts import rollouts_of

WAIT_S = 60.0


def test_a_batch_is_polled_by_celery_alone(backend: RewardManager, judge: JudgeServer) -> None:
    url = str(backend.config.broker.url)
    future = backend.submit(rollouts_of("celery", 4))
    with Celery(broker=url, backend=url, set_as_current=False) as app:
        result: AsyncResult[Any] = AsyncResult(future.batch_id, app=app)
        batch = RewardBatch.from_celery(result.get(timeout=WAIT_S))
        assert result.ready()
        assert result.state == "SUCCESS"
    same = future.result(WAIT_S)
    assert batch.id == future.batch_id
    np.testing.assert_array_equal(batch.rewards, same.rewards)
    assert (batch.statuses, batch.usage) == (same.statuses, same.usage)


def test_a_cancelled_batch_has_its_state(backend: RewardManager, judge: JudgeServer) -> None:
    url = str(backend.config.broker.url)
    judge.set_plan(Action(hold=True))
    future = backend.submit(rollouts_of("celery cancelled", 4))
    judge.wait_until(lambda log: len(log) == 4)
    assert future.cancel()
    judge.release()
    with Celery(broker=url, backend=url, set_as_current=False) as app:
        result: AsyncResult[Any] = AsyncResult(future.batch_id, app=app)
        value = result.get(timeout=WAIT_S)
    with pytest.raises(BatchCancelled, match="by the trainer"):
        RewardBatch.from_celery(value)
