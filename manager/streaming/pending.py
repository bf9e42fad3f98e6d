"""Scores to come: awaitable on any event loop, and from threads."""

import asyncio
import contextlib
import logging
import threading
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator, Sequence
from functools import partial
from typing import Any, Generic, TypeVar

from oyer.config.reward import RewardRules
from oyer.manager.score import Score, without_reward
from oyer.protocol.errors import OyerError

T = TypeVar("T")

log = logging.getLogger(__name__)


class Pending(Generic[T]):
    """A value to come, shared by all who wait for it; giving up waiting takes it from nobody.

    With a future of `concurrent.futures`, a rollout is 28 objects that the garbage collector goes
    through again and again; with this, 17. `benchmarks/single_calls.py` shows what they cost.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._outcome: Any = None
        self._callbacks: list[Callable[[Pending[T]], object]] | None = []
        """None once the outcome is there."""

    def done(self) -> bool:
        """Whether the value, or an error in its place, is there."""
        return self._callbacks is None

    def result(self, timeout_s: float | None = None) -> T:
        """Wait for the value.

        Raises:
            TimeoutError: not there within `timeout_s`; it may be waited for again.
            OyerError: what kept the value from coming.
        """
        if not self.done() and not self._wait(timeout_s):
            raise TimeoutError(f"no score within {timeout_s:g} s")
        if isinstance(self._outcome, Exception):
            raise self._outcome
        value: T = self._outcome
        return value

    def add_done_callback(self, callback: "Callable[[Pending[T]], object]") -> None:
        """Call `callback(pending)` once done, at once if it is; on another thread."""
        with self._lock:
            if self._callbacks is not None:
                self._callbacks.append(callback)
                return
        self._call(callback)

    def end(self, outcome: T | Exception) -> None:
        """Give the value, or the error in its place; what comes after the first is ignored."""
        with self._lock:
            callbacks = self._callbacks
            if callbacks is None:
                return
            self._outcome, self._callbacks = outcome, None
        for callback in callbacks:
            self._call(callback)

    def __await__(self) -> Generator[Any, None, T]:
        """Wait on the running event loop without blocking it."""
        if not self.done():
            loop = asyncio.get_running_loop()
            waiter: asyncio.Future[None] = loop.create_future()
            self.add_done_callback(partial(_wake, loop, waiter))
            yield from waiter
        return self.result()

    def _wait(self, timeout_s: float | None) -> bool:
        ended = threading.Event()

        def end(_: Pending[T]) -> None:
            ended.set()

        self.add_done_callback(end)
        if ended.wait(timeout_s):
            return True
        with self._lock:
            if self._callbacks is not None:
                self._callbacks.remove(end)
        return self.done()

    def _call(self, callback: "Callable[[Pending[T]], object]") -> None:
        try:
            callback(self)
        except Exception:
            log.exception("a callback of a score failed; the score stands")


class PendingScores(Pending[list[Score]]):
    """The scores of several rollouts, to come."""

    def __init__(self, scores: Sequence[Pending[Score]]) -> None:
        super().__init__()
        self.scores = list(scores)
        """Each rollout's own, in the order handed over."""
        self._open = len(self.scores)
        for score in self.scores:
            score.add_done_callback(self._count)
        if not self.scores:
            self.end([])

    def collect(self, timeout_s: float, rules: RewardRules) -> list[Score]:
        """Wait for `timeout_s` at most; a rollout that has no score by then, or none at all, says why.

        Raises:
            OyerError: a rollout failed, and the rules ask to be told (`without_reward`).
        """
        with contextlib.suppress(Exception):
            self.result(timeout_s)
        return self._settled(timeout_s, rules)

    async def gather(self, timeout_s: float, rules: RewardRules) -> list[Score]:
        """Do as `collect` without blocking the running event loop."""
        with contextlib.suppress(Exception):
            await asyncio.wait_for(self, timeout_s)
        return self._settled(timeout_s, rules)

    def _settled(self, waited_s: float, rules: RewardRules) -> list[Score]:
        """Read what is there by now, each rollout's error in its own place."""
        settled = []
        for score in self.scores:
            try:
                settled.append(score.result(0))
            except TimeoutError as error:
                late = error if score.done() else TimeoutError(f"no score within {waited_s:g} s")
                settled.append(without_reward(late, rules))
            except OyerError as error:
                settled.append(without_reward(error, rules))
        return settled

    def _count(self, _: Pending[Score]) -> None:
        with self._lock:
            self._open -= 1
            if self._open:
                return
        try:
            self.end([score.result(0) for score in self.scores])
        except Exception as error:  # noqa: BLE001 - whatever one rollout failed with is passed on
            self.end(error)


class _Waking(threading.local):
    """Who is to be woken once all that ends together on this thread has ended."""

    due: defaultdict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] | None = None


_waking = _Waking()


@contextlib.contextmanager
def ending_together() -> Iterator[None]:
    """Wake each event loop once for all that ends inside.

    Waking it for each would hand the interpreter from thread to thread each time.
    """
    due: defaultdict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = defaultdict(list)
    outer, _waking.due = _waking.due, due
    try:
        yield
    finally:
        _waking.due = outer
        for loop, waiters in due.items():
            _wake_all(loop, waiters)


def _wake(loop: asyncio.AbstractEventLoop, waiter: "asyncio.Future[None]", _: Pending[Any]) -> None:
    if _waking.due is None:
        _wake_all(loop, [waiter])
    else:
        _waking.due[loop].append(waiter)


def _wake_all(loop: asyncio.AbstractEventLoop, waiters: "Sequence[asyncio.Future[None]]") -> None:
    # A loop that was closed has nobody left who waits.
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(_release, waiters)


def _release(waiters: "Sequence[asyncio.Future[None]]") -> None:
    for waiter in waiters:
        if not waiter.done():
            waiter.set_result(None)
