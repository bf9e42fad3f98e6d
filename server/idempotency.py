"""Answers by the content of their requests, so that a client's retry joins or reads the first."""

import asyncio
import contextlib
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any

KEEP_S = 900.0
"""How long a complete answer is given again, in seconds: longer than any client's retries."""

MAX_KEPT_ROLLOUTS = 100_000
"""Rollouts whose answers are kept at most; one is about half a KB."""


@dataclass(frozen=True, kw_only=True)
class Reply:
    """An HTTP answer."""

    content: Any
    status_code: int = 200
    complete: bool = True
    """Whether every rollout has its reward; others are not kept, so that a retry can get them."""
    rollouts: int = 1
    """How many rollouts it answers."""


class Replies:
    """The answers under way and those given a while ago; of one event loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._under_way: dict[str, asyncio.Task[Reply]] = {}
        self._kept: OrderedDict[str, tuple[float, Reply]] = OrderedDict()
        self._rollouts = 0
        self._asking: dict[str, set[int]] = {}

    @contextlib.contextmanager
    def asking(self, key: str) -> Iterator[int]:
        """Number the clients that wait for one content at once, from 0.

        Two that wait are two samples with one text; one that hung up and asks again has the
        number that it left, and joins what it began.
        """
        numbers = self._asking.setdefault(key, set())
        number = next(n for n in count() if n not in numbers)
        numbers.add(number)
        try:
            yield number
        finally:
            numbers.discard(number)
            if not numbers:
                self._asking.pop(key, None)

    async def get(self, key: str, make: Callable[[], Coroutine[Any, Any, Reply]]) -> Reply:
        """Return the answer to `key`, made once however often it is asked for."""
        self._forget()
        if key in self._kept:
            return self._kept[key][1]
        task = self._under_way.get(key)
        if task is None:
            task = self._under_way[key] = asyncio.create_task(make())
            task.add_done_callback(lambda done: self._keep(key, done))
        # A client that hangs up ends its own waiting, not the work that others may wait for.
        return await asyncio.shield(task)

    def _keep(self, key: str, done: "asyncio.Task[Reply]") -> None:
        del self._under_way[key]
        if done.cancelled() or done.exception() is not None or not done.result().complete:
            return
        self._kept[key] = (self._clock() + KEEP_S, done.result())
        self._rollouts += done.result().rollouts

    def _forget(self) -> None:
        now = self._clock()
        while self._kept:
            key, (until, reply) = next(iter(self._kept.items()))
            if until > now and self._rollouts <= MAX_KEPT_ROLLOUTS:
                return
            del self._kept[key]
            self._rollouts -= reply.rollouts
