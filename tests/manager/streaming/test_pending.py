"""What is waited for is woken once, given once, and taken from nobody."""

import asyncio
import threading

import pytest

from oyer.manager.streaming.pending import Pending, ending_together


class CountingLoop(asyncio.SelectorEventLoop):
    """Counts how often other threads wake it."""

    woken = 0

    def call_soon_threadsafe(self, *args, **kwargs):  # type: ignore[no-untyped-def]  # as its base's
        """Count, and do as ever."""
        self.woken += 1
        return super().call_soon_threadsafe(*args, **kwargs)


def run_on(loop: CountingLoop, pendings: list[Pending[int]]) -> list[int | BaseException]:
    """End all that is pending from another thread while the loop waits for it."""

    def end_all() -> None:
        with ending_together():
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


def test_a_loop_is_woken_once_for_all_that_ends_together() -> None:
    loop = CountingLoop()
    outcomes = run_on(loop, [Pending() for _ in range(100)])
    loop.close()
    assert outcomes[::2] == list(range(0, 100, 2))
    assert {str(error) for error in outcomes[1::2]} == {"odd"}
    assert loop.woken == 1


def test_loops_of_several_threads_wait_for_one_value() -> None:
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


def test_the_first_outcome_stands() -> None:
    pending: Pending[int] = Pending()
    pending.end(1)
    pending.end(2)
    pending.end(ValueError("late"))
    assert pending.result() == 1


def test_who_gives_up_leaves_nothing_behind_and_can_wait_again() -> None:
    pending: Pending[int] = Pending()
    for timeout_s in (0, 0.001):
        with pytest.raises(TimeoutError, match="no score within"):
            pending.result(timeout_s)
    assert pending._callbacks == []
    threading.Timer(0.01, pending.end, [3]).start()
    assert pending.result(30) == 3


def test_a_loop_that_is_gone_keeps_nobody_from_being_told() -> None:
    pending: Pending[int] = Pending()

    async def give_up() -> None:
        await asyncio.wait_for(pending, 0.001)

    with pytest.raises(TimeoutError):
        asyncio.run(give_up())
    told: list[int] = []
    pending.add_done_callback(lambda one: told.append(one.result()))
    pending.end(1)
    assert told == [1]


def test_a_callback_that_fails_is_logged_and_others_are_called(
    caplog: pytest.LogCaptureFixture,
) -> None:
    pending: Pending[int] = Pending()
    told: list[int] = []
    inner: Pending[int] = Pending()
    inner.add_done_callback(lambda one: told.append(one.result()))

    def end_another(_: Pending[int]) -> None:
        with ending_together():
            inner.end(5)

    pending.add_done_callback(lambda _: 1 / 0)
    pending.add_done_callback(end_another)
    with ending_together():
        pending.end(1)
    pending.add_done_callback(lambda one: told.append(one.result()))
    assert told == [5, 1]
    assert "a callback of a score failed" in caplog.text
