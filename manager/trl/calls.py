"""One submission per batch for all functions that read its scores."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from oyer.manager.score import Score

Scores = list[Score]
Scoring = Callable[[], Coroutine[Any, Any, Scores]]

MAX_OPEN_CALLS = 16
"""Calls whose scores some function has not read; more are left from batches that failed elsewhere."""


@dataclass
class _Call:
    """One batch."""

    completions: Any
    """Identifies the batch; TRL passes the same list to every function."""
    scores: "Future[Scores]" = field(default_factory=Future)
    readers: set[str] = field(default_factory=set)


class SharedCalls:
    """The batches that some of the functions have yet to read."""

    def __init__(self) -> None:
        self.readers: set[str] = set()
        """Names of the functions that read each batch."""
        self._open: dict[int, _Call] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"readers": self.readers, "_open": {}}

    def begin(self, completions: Any, scoring: Scoring) -> None:
        """Score a batch in a thread of its own, for `read` to collect."""
        call = self._add(completions)

        def run() -> None:
            try:
                call.scores.set_result(asyncio.run(scoring()))
            except BaseException as error:  # noqa: BLE001 - the reader raises it
                call.scores.set_exception(error)

        # A daemon: a training that fails elsewhere ends without waiting for it.
        threading.Thread(target=run, name="oyer-rewards", daemon=True).start()

    async def read(self, reader: str, completions: Any, scoring: Scoring) -> tuple[Scores, bool]:
        """Return a batch's scores, and whether `reader` is the first of its readers.

        The first reader scores the batch, unless `begin` did.
        """
        call = self._open.get(id(completions))
        begun = call is not None and reader not in call.readers
        if call is None or not begun:
            call = self._add(completions)
        first = not call.readers
        call.readers.add(reader)
        if self.readers <= call.readers:
            del self._open[id(completions)]
        if not begun:
            try:
                call.scores.set_result(await scoring())
            except BaseException as error:
                call.scores.set_exception(error)
                raise
        # Shielded: a reader that is cancelled must not cancel the others.
        return await asyncio.shield(asyncio.wrap_future(call.scores)), first

    def _add(self, completions: Any) -> _Call:
        call = self._open[id(completions)] = _Call(completions)
        while len(self._open) > MAX_OPEN_CALLS:
            del self._open[next(iter(self._open))]
        return call
