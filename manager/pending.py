"""Scores to come: awaitable on any event loop, and from threads."""

import asyncio
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

from oyer.manager.score import Score

T = TypeVar("T")


class Pending(Generic[T]):
    """A value to come, shared by all who wait for it; giving up waiting takes it from nobody."""

    def __init__(self, inner: "Future[T]") -> None:
        self._inner = inner

    def done(self) -> bool:
        """Whether the value, or an error in its place, is there."""
        return self._inner.done()

    def result(self, timeout_s: float | None = None) -> T:
        """Wait for the value.

        Raises:
            TimeoutError: not there within `timeout_s`; it may be waited for again.
            OyerError: what kept the value from coming.
        """
        return self._inner.result(timeout_s)

    def add_done_callback(self, callback: "Callable[[Pending[T]], object]") -> None:
        """Call `callback(pending)` once done, at once if it is; on another thread."""
        self._inner.add_done_callback(lambda _: callback(self))

    def __await__(self) -> Generator[Any, None, T]:
        """Wait on the running event loop without blocking it."""
        return asyncio.shield(asyncio.wrap_future(self._inner)).__await__()


class PendingScores(Pending[list[Score]]):
    """The scores of several rollouts, to come."""

    def __init__(self, scores: Sequence[Pending[Score]]) -> None:
        super().__init__(Future())
        self.scores = list(scores)
        """Each rollout's own, in the order handed over."""
        self._open = len(self.scores)
        self._lock = threading.Lock()
        for score in self.scores:
            score.add_done_callback(self._count)
        if not self.scores:
            self._inner.set_result([])

    def _count(self, _: Pending[Score]) -> None:
        with self._lock:
            self._open -= 1
            if self._open:
                return
        try:
            self._inner.set_result([score.result(0) for score in self.scores])
        except Exception as error:  # whatever one rollout failed with, all have ended
            self._inner.set_exception(error)
