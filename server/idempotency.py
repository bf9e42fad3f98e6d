"""Replies by the content of their requests: a client's retry joins or reads the first one."""

import asyncio
import contextlib
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any

KEEP_S = 900.0
"""How long a complete reply is kept, in seconds: longer than clients retry."""

MAX_KEPT_ROLLOUTS = 100_000
"""Maximum number of rollouts in the kept replies; one takes about half a KB."""


@dataclass(frozen=True, kw_only=True)
class Reply:
    """The content of an HTTP response."""

    content: Any
    status_code: int = 200
    complete: bool = True
    """Whether every rollout has its reward. An incomplete reply is not kept, so that a retry can
    get the missing rewards."""
    rollouts: int = 1
    """Number of rollouts it answers."""
    keep_s: float = KEEP_S
    """How long it is kept if it is complete, in seconds."""


class Replies:
    """The replies in progress and the recent complete ones, of one event loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._in_progress: dict[str, asyncio.Future[Reply]] = {}
        self._kept: OrderedDict[str, tuple[float, Reply]] = OrderedDict()
        self._rollouts = 0
        self._waiting: dict[str, set[int]] = {}

    @contextlib.contextmanager
    def waiting(self, content: str) -> Iterator[int]:
        """Number the clients that wait for equal requests at the same time, from 0.

        Two that wait are two samples with equal text. One that disconnected and retries gets its
        number again, and joins the reply in progress.
        """
        numbers = self._waiting.setdefault(content, set())
        number = next(n for n in count() if n not in numbers)
        numbers.add(number)
        try:
            yield number
        finally:
            numbers.discard(number)
            if not numbers:
                self._waiting.pop(content, None)

    async def get(self, key: str, make: Callable[[], Awaitable[Reply]]) -> Reply:
        """Return the reply to `key`: a kept one, the one in progress, or a new one."""
        self._drop_old()
        kept = self._kept.get(key)
        if kept is not None and kept[0] > self._clock():
            return kept[1]
        task = self._in_progress.get(key)
        if task is None:
            task = self._in_progress[key] = asyncio.ensure_future(make())
            task.add_done_callback(lambda done: self._keep(key, done))
        # A disconnecting client cancels its own wait, and not the work that others wait for.
        return await asyncio.shield(task)

    def _keep(self, key: str, done: "asyncio.Future[Reply]") -> None:
        del self._in_progress[key]
        if done.cancelled() or done.exception() is not None or not done.result().complete:
            return
        self._drop(key)
        self._kept[key] = (self._clock() + done.result().keep_s, done.result())
        self._rollouts += done.result().rollouts

    def _drop_old(self) -> None:
        now = self._clock()
        while self._kept:
            key, (until, _) = next(iter(self._kept.items()))
            if until > now and self._rollouts <= MAX_KEPT_ROLLOUTS:
                return
            self._drop(key)

    def _drop(self, key: str) -> None:
        if key in self._kept:
            self._rollouts -= self._kept.pop(key)[1].rollouts
