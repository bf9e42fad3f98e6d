"""A future from submit to its end: results, waits, callbacks, cancellation, tickets."""

import asyncio
import concurrent.futures
import threading

import numpy as np
import pytest

from oyer.manager import (
    BatchCancelled,
    BatchFailed,
    JudgeOutage,
    MissingScores,
    RewardFuture,
)
from oyer.manager.backend.connection import backend
from oyer.protocol import names
from tests.manager.conftest import Submit, Workers

pytestmark = pytest.mark.filterwarnings(
    "ignore:Call to deprecated setex:DeprecationWarning"  # Celery 5.7 on redis-py 8
)


def test_a_result_comes_back_as_a_batch(submit: Submit, workers: Workers) -> None:
    future = submit()
    assert not future.done()
    assert "pending" in repr(future)
    workers.succeed(future.batch_id)
    batch = future.result(timeout_s=60)
    np.testing.assert_array_equal(batch.judge_scores, [8, 8, 8, 8])
    assert batch.id == future.batch_id
    assert future.done()
    assert "done" in repr(future)
    assert future.result() is batch


def test_a_timeout_names_what_is_missing_and_the_future_stays_usable(
    submit: Submit, workers: Workers
) -> None:
    future = submit()
    workers.report(future.batch_id, 3)
    with pytest.raises(TimeoutError, match=r"within 0 s: 1 of 4 verdicts are missing"):
        future.result(timeout_s=0)
    workers.report(future.batch_id, 4)
    with pytest.raises(TimeoutError, match=r"every verdict is there; its length terms"):
        future.result(timeout_s=0)
    with pytest.raises(
        TimeoutError,
        # A small batch is one judge task.
        match=r"no worker listens on queue `judge`: start `oyer worker judge`$",
    ):
        future.result(timeout_s=0)
    for queue in ("combine", "length"):
        workers.redis.set(names.worker_key(queue, "one"), '{"host": "h", "pid": 1}')
    with pytest.raises(TimeoutError, match=r"queue `judge`: start `oyer worker judge`$"):
        future.result(timeout_s=0)
    workers.redis.set(names.worker_key("judge", "one"), '{"host": "h", "pid": 2}')
    with pytest.raises(TimeoutError, match=r"its combination are missing$"):
        future.result(timeout_s=0)
    workers.succeed(future.batch_id)
    assert len(future.result(timeout_s=60)) == 4


def test_progress_never_exceeds_the_total_and_ends_at_it(submit: Submit, workers: Workers) -> None:
    future = submit()
    assert future.progress() == (0, 4)
    workers.report(future.batch_id, 9)
    assert future.progress() == (4, 4)
    workers.report(future.batch_id, 1)
    workers.succeed(future.batch_id)
    future.result(timeout_s=60)
    assert future.progress() == (4, 4)


def test_a_callback_is_called_once_with_the_future(submit: Submit, workers: Workers) -> None:
    future, called = submit(), threading.Event()
    got: list[RewardFuture] = []

    def callback(done: RewardFuture) -> None:
        got.append(done)
        called.set()

    future.add_done_callback(callback)
    workers.succeed(future.batch_id)
    assert called.wait(60)
    future.add_done_callback(got.append)
    assert got == [future, future]


def test_a_callback_that_raises_stops_nothing(
    submit: Submit, workers: Workers, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = submit(), submit()

    def broken(_: RewardFuture) -> None:
        raise RuntimeError("of the user")

    first.add_done_callback(broken)
    workers.succeed(first.batch_id)
    assert len(first.result(timeout_s=60)) == 4
    workers.succeed(second.batch_id)
    assert len(second.result(timeout_s=60)) == 4
    assert "of the user" in caplog.text


async def _awaited(future: RewardFuture, workers: Workers) -> int:
    loop_runs = asyncio.Event()
    asyncio.get_running_loop().call_soon(loop_runs.set)

    async def end() -> None:
        await loop_runs.wait()
        await asyncio.to_thread(workers.succeed, future.batch_id)

    ending = asyncio.create_task(end())
    batch = await future
    await ending
    return len(batch)


def test_awaiting_leaves_the_event_loop_running(submit: Submit, workers: Workers) -> None:
    assert asyncio.run(asyncio.wait_for(_awaited(submit(), workers), 60)) == 4


def test_a_cancelled_await_leaves_the_future_usable(submit: Submit, workers: Workers) -> None:
    future = submit()

    async def impatient() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(future, 0.01)

    asyncio.run(impatient())
    assert not future.done()
    workers.succeed(future.batch_id)
    assert len(future.result(timeout_s=60)) == 4


def test_the_wait_includes_waits_that_were_given_up(submit: Submit, workers: Workers) -> None:
    future = submit()

    async def impatient() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(future, 0.1)

    asyncio.run(impatient())
    with pytest.raises(TimeoutError):
        future.result(timeout_s=0.1)
    workers.succeed(future.batch_id)
    ended = threading.Event()
    future.add_done_callback(lambda _: ended.set())
    assert ended.wait(60)
    assert future.outcome().trainer_wait_s is None
    batch = future.result()
    assert batch.trainer_wait_s is not None
    assert batch.trainer_wait_s > 0.19
    assert future.result() is batch


def test_missing_scores_are_raised_with_the_partial_batch(submit: Submit, workers: Workers) -> None:
    future = submit(reward={"on_missing": "raise"})
    workers.succeed(future.batch_id, statuses=["scored", "scored", "timeout", "scored"])
    with pytest.raises(
        MissingScores, match=r"1 of 4 rollouts to be judged have no score"
    ) as caught:
        future.result(timeout_s=60)
    assert caught.value.batch.statuses[2] == "timeout"


def test_an_outage_is_raised(submit: Submit, workers: Workers) -> None:
    future = submit(reward={"max_failed_fraction": 0.25})
    workers.succeed(future.batch_id, statuses=["timeout", "timeout", "scored", "scored"])
    with pytest.raises(JudgeOutage):
        future.result(timeout_s=60)


def test_cancel_stops_the_workers_and_ends_the_future(submit: Submit, workers: Workers) -> None:
    future = submit()
    assert future.cancel()
    with pytest.raises(BatchCancelled, match=future.batch_id):
        future.result(timeout_s=60)
    assert workers.exchange.ending(future.batch_id) is not None
    assert not future.cancel()
    workers.succeed(future.batch_id)
    assert isinstance(_error(future), BatchCancelled)


def test_a_batch_that_has_ended_is_not_cancelled(submit: Submit, workers: Workers) -> None:
    future = submit()
    workers.succeed(future.batch_id)
    future.result(timeout_s=60)
    assert not future.cancel()
    assert workers.exchange.ending(future.batch_id) is None


def test_only_the_first_end_counts(submit: Submit, workers: Workers) -> None:
    future = submit()
    workers.succeed(future.batch_id)
    batch = future.result(timeout_s=60)
    future.fail(RuntimeError("too late"))
    assert future.finish({"status": "SUCCESS", "result": {}}) is None
    assert future.result() is batch


def test_many_threads_may_wait_for_one_future(submit: Submit, workers: Workers) -> None:
    future = submit()
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(future.result, 60) for _ in range(8)]
        workers.succeed(future.batch_id)
        assert len({id(done.result()) for done in waiting}) == 1


def test_one_connection_serves_all_futures_of_a_broker(redis_url: str) -> None:
    assert backend(redis_url, 600) is backend(redis_url, 600)
    assert backend(redis_url, 600) is not backend(redis_url, 700)


def _error(future: RewardFuture) -> BaseException:
    with pytest.raises(BatchFailed) as caught:
        future.result(timeout_s=60)
    return caught.value
