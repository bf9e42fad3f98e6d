"""Closes the group of a sample as soon as no further sample of it can come."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from oyer.manager.slime.caller import Caller, Task
from oyer.manager.streaming.pending import PendingScores
from oyer.protocol.rollout import Rollout

ABORT_POLL_S = 0.05
"""Interval at which the trainer's `aborted` is polled, in seconds."""

MAX_GROUPS = 4096
"""Groups whose samples are remembered; the oldest are dropped."""


@dataclass(eq=False)
class SiblingWatch:
    """The samples of one group in one rollout, by the trainer's tasks.

    A sample never comes if its task has ended without asking for a reward: it was aborted or refused,
    it failed, or it had a reward before.
    """

    siblings: Sequence[Task]
    close: Callable[[], object]
    """Says that no more samples will come."""
    came: set[Task] = field(default_factory=set)
    earlier: list[tuple[Any, Rollout, PendingScores]] = field(default_factory=list)
    """Samples that were finished when an earlier trainer step aborted the group."""
    closed: bool = False

    def __post_init__(self) -> None:
        for task in self.siblings:
            task.add_done_callback(self._ended)

    def enter(self, task: Task | None) -> None:
        """Note that a sample asks for its reward."""
        if task is not None:
            self.came.add(task)
        self._ended()

    def _ended(self, _: Task | None = None) -> None:
        expected = len(self.siblings) - len(self.earlier)
        if self.closed or not self.came or len(self.came) >= expected:
            return
        if all(task.done() or task in self.came for task in self.siblings):
            self.closed = True
            self.close()


class Recent(OrderedDict[Hashable, Any]):
    """The latest values by group."""

    def keep(self, group: Hashable, value: Any) -> None:
        """Set a value, and drop the oldest ones beyond `MAX_GROUPS`."""
        self[group] = value
        self.move_to_end(group)
        while len(self) > MAX_GROUPS:
            self.popitem(last=False)


async def unless_aborted(caller: Caller, scores: "asyncio.Future[Any]") -> Any:
    """Wait for scores; returns None if the trainer aborts first."""
    if caller.state is None:
        return await scores
    with _Abort.of(caller.state) as aborted:
        await asyncio.wait({scores, aborted}, return_when=asyncio.FIRST_COMPLETED)
    if scores.done():
        return scores.result()
    scores.cancel()  # the judging goes on
    return None


class _Abort:
    """Polls a trainer's state while samples wait; all samples of a rollout share the task."""

    _by_state: ClassVar[dict[int, Self]] = {}

    def __init__(self, state: Any) -> None:
        self._state = state
        self._waiting = 0
        self._task = asyncio.create_task(self._poll())

    @classmethod
    def of(cls, state: Any) -> Self:
        if id(state) not in cls._by_state:
            cls._by_state[id(state)] = cls(state)
        return cls._by_state[id(state)]

    def __enter__(self) -> "asyncio.Task[None]":
        self._waiting += 1
        return self._task

    def __exit__(self, *_: object) -> None:
        self._waiting -= 1
        if not self._waiting:
            self._by_state.pop(id(self._state), None)
            self._task.cancel()

    async def _poll(self) -> None:
        while not self._state.aborted:
            await asyncio.sleep(ABORT_POLL_S)
