"""Pending scores, awaitable on any event loop and from threads, and the rollouts they belong to."""

import contextlib
import logging
import os
import threading
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from oyer.config.reward import RewardRules
from oyer.manager.score import Score, without_reward
from oyer.protocol.batch import Priority
from oyer.protocol.errors import BackendUnavailable, OyerError
from oyer.protocol.rollout import Rollout

if TYPE_CHECKING:
    import asyncio

T = TypeVar("T")

TimeoutPolicy = Literal["partial", "neutral", "error"]
"""What happens to an overdue group: `partial` scores the rollouts that arrived, `neutral` scores them
without length terms, `error` fails each."""

log = logging.getLogger(__name__)


class Pending(Generic[T]):
    """A future with many waiters. Cancelling one waiter does not cancel the future.

    In a forked child, a value that was pending at the fork never arrives: waiting for it there fails.

    With `concurrent.futures.Future`, a rollout is 28 objects for the garbage collector to traverse;
    with this, 17. `benchmarks/single_calls.py` measures the cost.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._outcome: Any = None
        self._callbacks: list[Callable[[Pending[T]], object]] | None = []
        """None once done."""
        self._process = os.getpid()

    def done(self) -> bool:
        """Whether it has a value or an error."""
        return self._callbacks is None

    def result(self, timeout_s: float | None = None) -> T:
        """Wait for the value.

        Raises:
            TimeoutError: not done within `timeout_s`; the wait can be repeated.
            OyerError: the rollout failed.
        """
        if not self.done():
            self._check_process()
            if not self._wait(timeout_s):
                raise TimeoutError(f"no score within {timeout_s:g} s")
        if isinstance(self._outcome, Exception):
            raise self._outcome
        value: T = self._outcome
        return value

    def add_done_callback(self, callback: "Callable[[Pending[T]], object]") -> None:
        """Call `callback(pending)` once done: now if it is done already, else on another thread."""
        with self._lock:
            if self._callbacks is not None:
                self._callbacks.append(callback)
                return
        self._call(callback)

    def end(self, outcome: T | Exception) -> None:
        """Set the value or the error; only the first call has an effect."""
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
            import asyncio

            self._check_process()
            loop = asyncio.get_running_loop()
            waiter: asyncio.Future[None] = loop.create_future()
            wake = partial(_wake, loop, waiter)
            self.add_done_callback(wake)
            try:
                yield from waiter
            finally:  # A wait that is given up leaves nothing behind.
                self._forget(wake)
        return self.result()

    def _check_process(self) -> None:
        if self._process != os.getpid():
            raise BackendUnavailable(
                "the score was pending when this process was forked: wait for it in the process that"
                " submitted the rollout, or submit the rollout again in this one"
            )

    def _wait(self, timeout_s: float | None) -> bool:
        ended = threading.Event()

        def end(_: Pending[T]) -> None:
            ended.set()

        self.add_done_callback(end)
        if ended.wait(timeout_s):
            return True
        self._forget(end)
        return self.done()

    def _forget(self, callback: "Callable[[Pending[T]], object]") -> None:
        with self._lock:
            if self._callbacks is not None:
                self._callbacks.remove(callback)

    def _call(self, callback: "Callable[[Pending[T]], object]") -> None:
        try:
            callback(self)
        except Exception:
            log.exception("a callback of a score failed; the score is unaffected")


class PendingScores(Pending[list[Score]]):
    """The pending scores of several rollouts."""

    def __init__(self, scores: Sequence[Pending[Score]]) -> None:
        super().__init__()
        self.scores = list(scores)
        """One per rollout, in the order submitted."""
        self._open = len(self.scores)
        for score in self.scores:
            score.add_done_callback(self._count)
        if not self.scores:
            self.end([])

    def collect(self, timeout_s: float, rules: RewardRules) -> list[Score]:
        """Wait at most `timeout_s`; the `Score` of a rollout without a reward names the error.

        Raises:
            OyerError: a rollout failed, and the rules raise it (`without_reward`).
        """
        with contextlib.suppress(Exception):
            self.result(timeout_s)
        return self._settled(timeout_s, rules)

    async def gather(self, timeout_s: float, rules: RewardRules) -> list[Score]:
        """Like `collect`, without blocking the running event loop."""
        import asyncio

        with contextlib.suppress(Exception):
            await asyncio.wait_for(self, timeout_s)
        return self._settled(timeout_s, rules)

    def _settled(self, waited_s: float, rules: RewardRules) -> list[Score]:
        """Return the scores so far, with the error of each rollout in its place."""
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
        except Exception as error:  # noqa: BLE001 - the error of one rollout is the error of all
            self.end(error)


@dataclass(eq=False, kw_only=True, slots=True)
class PendingRollout:
    """A rollout of this process that has no score yet."""

    rollout: Rollout
    id: str
    """The same in every process."""
    run: str
    step: int | None
    split: str | None = None
    priority: Priority = "training"
    group: str | None = None
    """Name of its group in Redis; None if its group need not be gathered."""
    group_size: int = 0
    group_due_s: float | None = None
    """When the group is overdue if this is its first rollout, in seconds of `time.monotonic`; None: as
    the times of earlier groups say."""
    spread: str = ""
    """Name of the groups whose times these are."""
    on_group_timeout: TimeoutPolicy = "partial"
    row: int = -1
    """Its row in its group, once it has joined it."""
    is_late: bool = False
    """Whether its group was closed before it arrived."""
    group_closed: bool = False
    """True once the group is complete or overdue: the rollout is no longer judged early on its own."""
    unit: tuple[str, ...] = ()
    """The ids of the rollouts that must share its batch, its own among them."""
    pending: Pending[Score] = field(default_factory=Pending)


@dataclass(eq=False, kw_only=True, slots=True)
class GroupClosing:
    """What a process knows about rollouts of groups that will not come."""

    groups: Sequence[str]
    """Their names in Redis."""
    group_size: int
    step: int | None
    absent: Sequence[str] | None
    """Names of rollouts that will not come; None if no further rollout will."""
    expires_s: float
    """Until when it is tried to reach the broker, in seconds of `time.monotonic`."""
    pending: Pending[None] = field(default_factory=Pending)


class PendingRollouts:
    """The pending rollouts of one stream, so that a rollout submitted again joins the first."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._units: dict[tuple[str, ...], list[PendingRollout]] = {}

    def add(self, unit: list[PendingRollout]) -> list[PendingRollout]:
        """Add rollouts that must share a batch, unless they are pending; returns those pending."""
        key = tuple([one.id for one in unit])
        for one in unit:
            one.unit = key
        with self._lock:
            return self._units.setdefault(key, unit)

    def end(self, outcomes: Sequence[tuple[PendingRollout, Score | Exception]]) -> None:
        """Set each rollout's result."""
        with self._lock:
            for one, _ in outcomes:
                self._units.pop(one.unit, None)
        with wake_loops_once():
            # A rollout that failed here may still be in a group that other processes complete.
            for one, outcome in outcomes:
                one.pending.end(outcome)


class _DeferredWakeups(threading.local):
    """The waiters that `wake_loops_once` wakes when it ends on this thread."""

    waiters: "defaultdict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] | None" = None


_deferred = _DeferredWakeups()


@contextlib.contextmanager
def wake_loops_once() -> Iterator[None]:
    """Wake each event loop once for all that ends inside.

    Each wake-up makes threads switch the interpreter lock.
    """
    due: defaultdict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]]
    due = defaultdict(list)
    outer, _deferred.waiters = _deferred.waiters, due
    try:
        yield
    finally:
        _deferred.waiters = outer
        for loop, waiters in due.items():
            _wake_all(loop, waiters)


def _wake(
    loop: "asyncio.AbstractEventLoop", waiter: "asyncio.Future[None]", _: Pending[Any]
) -> None:
    if _deferred.waiters is None:
        _wake_all(loop, [waiter])
    else:
        _deferred.waiters[loop].append(waiter)


def _wake_all(loop: "asyncio.AbstractEventLoop", waiters: "Sequence[asyncio.Future[None]]") -> None:
    # A closed loop has no waiters.
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(_release, waiters)


def _release(waiters: "Sequence[asyncio.Future[None]]") -> None:
    for waiter in waiters:
        if not waiter.done():
            waiter.set_result(None)
