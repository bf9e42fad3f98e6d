"""Scores to come: awaitable on any event loop, and from threads."""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

from oyer.manager.score import Score, without_reward
from oyer.tasks.config import RewardRules
from oyer.tasks.errors import OyerError

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
            self._inner.set_result([score.result(0) for score in self.scores])
        except Exception as error:  # noqa: BLE001 - whatever one rollout failed with is passed on
            self._inner.set_exception(error)
