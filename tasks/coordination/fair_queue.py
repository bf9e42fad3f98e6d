"""Calls of one worker that wait for a permit of one endpoint, in the fair order of their flows; pure."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from oyer.protocol.batch import Priority

T = TypeVar("T")

PRIORITY_WEIGHTS: Mapping[Priority, float] = {
    "interactive": 16.0,
    "training": 1.0,
    "background": 1 / 32,
}
"""Factor of a run's weight. Background calls take at most 3 % of the permits while training takes all it
can get, and still progress."""


@dataclass(frozen=True, slots=True)
class Flow:
    """The calls of one run and priority: they share permits with the other flows by weight."""

    name: str
    weight: float

    @classmethod
    def of(cls, run: str, priority: Priority, run_weights: Mapping[str, float]) -> "Flow":
        """Return the flow of a batch.

        Args:
            run_weights: `run_weights` of the configuration.
        """
        weight = run_weights.get(run, 1.0) * PRIORITY_WEIGHTS[priority]
        return cls(f"{priority}:{run}", weight)


ANY_FLOW = Flow("", 1.0)
"""The flow of calls without a batch."""


class _FlowState(Generic[T]):
    def __init__(self, weight: float, served: float) -> None:
        self.weight = weight
        self.waiting: deque[T] = deque()
        self.in_use = 0
        self.wanted = 0
        """Most calls in flight and waiting since the last `demand`."""
        self.reported = 0
        """What the last `demand` returned of it."""
        self.served = served
        """Calls begun divided by the weight: the virtual time of fair queueing (Demers, Keshav and
        Shenker, 1989)."""


class FairQueue(Generic[T]):
    """Waiting calls by flow, first in, first out within a flow.

    The next call is of the flow that is farthest below its share of the slots; of several, of the
    flow that was served least for its weight. A flow takes what the others leave.
    """

    def __init__(self) -> None:
        self._flows: dict[str, _FlowState[T]] = {}
        self._waiting = 0
        self._served = 0.0

    def __len__(self) -> int:
        return self._waiting

    def push(self, flow: Flow, item: T) -> bool:
        """Add a waiting call; returns whether the flow's share is to be computed anew.

        That is so if the call is the only waiting one, and each time the demand has doubled: the
        chunks of a new run arrive one after the other, and its first one asks for few permits only.
        """
        state = self._flows.get(flow.name)
        if state is None:
            state = self._flows[flow.name] = _FlowState(flow.weight, self._served)
        elif not state.in_use and not state.waiting:
            # A flow saves nothing up while it has no calls.
            state.served = max(state.served, self._served)
        state.weight = flow.weight
        state.waiting.append(item)
        self._waiting += 1
        demand = state.in_use + len(state.waiting)
        state.wanted = max(state.wanted, demand)
        return len(state.waiting) == 1 or demand > 2 * state.reported

    def remove(self, flow: Flow, item: T) -> None:
        """Remove a call that no longer waits."""
        self._flows[flow.name].waiting.remove(item)
        self._waiting -= 1

    def next(self, shares: Mapping[str, int]) -> T | None:
        """Return the call that is to begin next; None if none waits.

        Args:
            shares: fair slots of the known flows.
        """
        name = self._next_flow(shares)
        return None if name is None else self._flows[name].waiting[0]

    def begin(self, flow: Flow) -> T:
        """Remove a flow's first waiting call and count it as in flight."""
        state = self._flows[flow.name]
        self._waiting -= 1
        state.in_use += 1
        self._served = max(self._served, state.served)
        state.served += 1 / state.weight
        return state.waiting.popleft()

    def end(self, name: str) -> None:
        """Count a call of a flow as ended."""
        self._flows[name].in_use -= 1

    def waiting(self, shares: Mapping[str, int]) -> list[T]:
        """Return all waiting calls: those of the next one's flow first, then the other flows'."""
        following = self._next_flow(shares)
        flows = sorted(self._flows.items(), key=lambda item: item[0] != following)
        return [item for _, state in flows for item in state.waiting]

    def demand(self) -> list[tuple[str, float, int]]:
        """Return each flow's name, weight and most calls at once since the last `demand`.

        Flows without calls are forgotten.
        """
        demand = []
        for name, state in list(self._flows.items()):
            demand.append((name, state.weight, state.wanted))
            state.reported = state.wanted
            state.wanted = state.in_use + len(state.waiting)
            if not state.wanted:
                del self._flows[name]
        return [one for one in demand if one[2]]

    def _next_flow(self, shares: Mapping[str, int]) -> str | None:
        waiting = [name for name, state in self._flows.items() if state.waiting]
        if len(waiting) < 2:
            return waiting[0] if waiting else None
        if any(name not in shares for name in waiting):
            # Redis has not heard of a flow, or cannot be reached: take turns by weight.
            return min(waiting, key=lambda name: self._flows[name].served)
        return min(waiting, key=lambda name: (self._load(name, shares), self._flows[name].served))

    def _load(self, name: str, shares: Mapping[str, int]) -> float:
        """Return the part of its share that a flow would use with one call more."""
        calls = self._flows[name].in_use + 1
        return calls / shares[name] if shares[name] else float("inf")
