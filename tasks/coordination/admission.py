"""Decides of which flows a judge worker takes another chunk; pure.

A chunk is taken when its calls can soon begin. A flow whose endpoints are slow or dead therefore
keeps its backlog in Redis, and takes no slot from others. See docs/internals/fairness.md.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from oyer.protocol.names import FLOW_HEADER

_THRESHOLD = 2
"""A flow holds less than twice as many slots as are free, so that a new flow always finds some
(dynamic thresholds: Choudhury and Hahne, 1998). One flow alone gets two thirds of the slots."""


@dataclass(eq=False, slots=True)
class ChunkLoad:
    """A chunk in work."""

    flow: str = ""
    calls: int = 0
    """Calls that have not ended; the judge task updates it."""


class Admission:
    """The chunks in work of one process.

    Args:
        slots: most chunks in work at once.
        lookahead: most calls that have not ended, in flight or waiting, of a flow that calls the
            given endpoints.
    """

    def __init__(self, slots: int, lookahead: Callable[[Sequence[str]], int]) -> None:
        self._slots = slots
        self._lookahead = lookahead
        self._chunks: dict[str, ChunkLoad] = {}

    @property
    def free(self) -> int:
        """Slots without a chunk."""
        return max(0, self._slots - len(self._chunks))

    def begin(self, task_id: str, flow: str, calls: int) -> None:
        """Count a chunk as in work."""
        self._chunks[task_id] = ChunkLoad(flow, calls)

    def load(self, task_id: str) -> ChunkLoad:
        """Return the entry of a chunk in work; one that counts for nothing if it is unknown."""
        return self._chunks.get(task_id) or ChunkLoad()

    def end(self, task_id: str) -> None:
        """Forget a chunk."""
        self._chunks.pop(task_id, None)

    def full_flows(self) -> list[str]:
        """Return the flows of which no further chunk is to be taken now."""
        chunks: defaultdict[str, int] = defaultdict(int)
        calls: defaultdict[str, int] = defaultdict(int)
        for load in self._chunks.values():
            chunks[load.flow] += 1
            calls[load.flow] += load.calls
        return [
            flow
            for flow, count in chunks.items()
            if count >= _THRESHOLD * self.free or calls[flow] >= self._lookahead(_endpoints(flow))
        ]


def flow_of(headers: Any) -> tuple[str, int]:
    """Return a judge message's flow and number of calls.

    Messages of earlier releases, and of other programs, have no flow: they share one.
    """
    header = headers.get(FLOW_HEADER) if isinstance(headers, dict) else None
    if not isinstance(header, dict):
        return "", 1
    flow, calls = header.get("flow"), header.get("calls")
    if not isinstance(flow, str) or not isinstance(calls, int):
        return "", 1
    return flow, max(1, calls)


def task_id_of(headers: Any) -> str:
    """Return the task id of a message; empty for a message of another program without one."""
    return str(headers.get("id", "")) if isinstance(headers, dict) else ""


def _endpoints(flow: str) -> list[str]:
    """Return the endpoints named by `names.flow_header`; none for a flow of another form."""
    try:
        endpoints = json.loads(flow)[2]
    except (ValueError, TypeError, LookupError, RecursionError):
        return []
    return (
        [name for name in endpoints if isinstance(name, str)] if isinstance(endpoints, list) else []
    )
