"""A pending value has one outcome for all its waiters, and wakes each event loop once."""

import asyncio
import threading
from typing import Any

import pytest

from oyer.manager.streaming.pending import Pending, wake_loops_once


class CountingLoop(asyncio.SelectorEventLoop):
    """Counts the wake-ups from other threads."""

    woken = 0

    def call_soon_threadsafe(self, *args: Any, **kwargs: Any) -> asyncio.Handle:  # type: ignore[override]
        """Count."""
        self.woken += 1
        return super().call_soon_threadsafe(*args, **kwargs)


def run_on(loop: CountingLoop, pendings: list[Pending[int]]) -> list[int | BaseException]:
    """End all values from another thread while the loop waits for them."""

    def end_all() -> None:
        with wake_loops_once():
            for i, pending in enumerate(pendings):
                pending.end(ValueError("odd") if i % 2 else i)

    async def one(pending: Pending[int]) -> int:
        return await pending

    async def main() -> list[int | BaseException]:
        waiting = [asyncio.ensure_future(one(pending)) for pending in pendings]
        await asyncio.sleep(0)
        thread = threading.Thread(target=end_all)
        thread.start()
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
        thread.join()
        return outcomes

    return loop.run_until_complete(main())


def test_a_loop_is_woken_once_for_values_that_end_together() -> None:
    loop = CountingLoop()
    outcomes = run_on(loop, [Pending() for _ in range(100)])
    loop.close()
    assert outcomes[::2] == list(range(0, 100, 2))
    assert {str(error) for error in outcomes[1::2]} == {"odd"}
    assert loop.woken == 1


def test_event_loops_of_several_threads_can_await_one_value() -> None:
    pending: Pending[int] = Pending()
    waiting = threading.Barrier(4)
    found: list[int] = []

    async def one() -> int:
        asyncio.get_running_loop().call_soon(waiting.wait)
        return await pending

    threads = [threading.Thread(target=lambda: found.append(asyncio.run(one()))) for _ in range(3)]
    for thread in threads:
        thread.start()
    waiting.wait()
    pending.end(7)
    for thread in threads:
        thread.join()
    assert found == [7, 7, 7]


def test_only_the_first_outcome_counts() -> None:
    pending: Pending[int] = Pending()
    pending.end(1)
    pending.end(2)
    pending.end(ValueError("late"))
    assert pending.result() == 1


def test_a_timed_out_wait_removes_its_callback_and_can_be_repeated() -> None:
    pending: Pending[int] = Pending()
    for timeout_s in (0, 0.001):
        with pytest.raises(TimeoutError, match="no score within"):
            pending.result(timeout_s)
    assert pending._callbacks == []
    threading.Timer(0.01, pending.end, [3]).start()
    assert pending.result(30) == 3


def test_a_closed_loop_does_not_stop_other_callbacks() -> None:
    pending: Pending[int] = Pending()

    async def give_up() -> None:
        await asyncio.wait_for(pending, 0.001)

    with pytest.raises(TimeoutError):
        asyncio.run(give_up())
    values: list[int] = []
    pending.add_done_callback(lambda one: values.append(one.result()))
    pending.end(1)
    assert values == [1]


def test_a_failing_callback_is_logged_and_the_others_are_called(
    caplog: pytest.LogCaptureFixture,
) -> None:
    pending: Pending[int] = Pending()
    values: list[int] = []
    inner: Pending[int] = Pending()
    inner.add_done_callback(lambda one: values.append(one.result()))

    def end_another(_: Pending[int]) -> None:
        with wake_loops_once():
            inner.end(5)

    pending.add_done_callback(lambda _: 1 / 0)
    pending.add_done_callback(end_another)
    with wake_loops_once():
        pending.end(1)
    pending.add_done_callback(lambda one: values.append(one.result()))
    assert values == [5, 1]
    assert "a callback of a score failed" in caplog.text


def test_a_wait_that_is_given_up_leaves_nothing_behind() -> None:
    pending: Pending[int] = Pending()

    async def main() -> int:
        for _ in range(3):
            waiting = asyncio.ensure_future(one())
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        assert pending._callbacks == []
        waiting = asyncio.ensure_future(one())
        await asyncio.sleep(0)
        pending.end(7)
        return await waiting

    async def one() -> int:
        return await pending

    assert asyncio.run(main()) == 7
