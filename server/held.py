"""Closes groups that hold all connections of a client which does not follow redirects.

Such a client may have a cap on its connections; HTTP does not say so. If every request that it holds
open waits for siblings and no further one arrives, one group is closed, and answered, as a probe. If
new requests follow at once, the client is at its cap: from then on, groups are closed as soon as that
many requests wait. If none follow, the siblings are still being generated, and the groups wait.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

MIN_CAP = 8
"""Smallest number of connections that is taken for a cap."""

QUIET_S = 2.0
"""How long no request arrives before the probe, in seconds."""

_PAUSE_S = 0.1
"""Pause between two looks, in seconds; also how soon a queued request follows an answer."""


@dataclass(eq=False)
class HeldGroup:
    """A group whose rollouts arrive in several requests."""

    name: str
    size: int
    close: Callable[[], object]
    """Says that no more rollouts of it will come."""


@dataclass(eq=False)
class _Client:
    held: int = 0
    arrived: dict[str, int] = field(default_factory=dict)
    """Rollouts so far, by incomplete group."""
    waiting: dict[str, int] = field(default_factory=dict)
    """Requests held open, by incomplete group."""
    groups: dict[str, HeldGroup] = field(default_factory=dict)
    last_arrival_s: float = 0.0
    probe: tuple[float, int] | None = None
    """When a group was closed last, and how many requests were held then."""
    cap: int | None = None
    at_least: int = 0
    """Number of held requests at which the client still had connections left."""


class HeldRequests:
    """The requests of one event loop that wait for siblings, by client."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._clients: dict[str, _Client] = {}
        self._looking: asyncio.Task[None] | None = None

    @contextmanager
    def waiting(self, name: str, groups: Iterable[HeldGroup]) -> Iterator[None]:
        """Count a request of a client while it waits for its groups, one entry per rollout."""
        client = self._clients.setdefault(name, _Client())
        groups = list(groups)
        names = [group.name for group in groups]
        for group in groups:
            self._arrive(client, group)
        client.held += 1
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look())
        try:
            yield
        finally:
            client.held -= 1
            for group_name in names:
                if client.waiting.get(group_name, 0) <= 1:
                    self._forget(client, group_name)
                else:
                    client.waiting[group_name] -= 1

    def _arrive(self, client: _Client, group: HeldGroup) -> None:
        now_s = self._clock()
        client.last_arrival_s = now_s
        if client.probe is not None:
            closed_s, held = client.probe
            if now_s - closed_s <= 2 * _PAUSE_S + QUIET_S / 2:
                client.cap = held
            client.probe = None
        arrived = client.arrived.get(group.name, 0) + 1
        if arrived >= group.size:
            self._forget(client, group.name)
            return
        client.arrived[group.name] = arrived
        client.waiting[group.name] = client.waiting.get(group.name, 0) + 1
        client.groups[group.name] = group

    def _forget(self, client: _Client, group_name: str) -> None:
        for known in (client.arrived, client.waiting, client.groups):
            known.pop(group_name, None)

    async def _look(self) -> None:
        while any(client.held for client in self._clients.values()):
            await asyncio.sleep(_PAUSE_S)
            for client in self._clients.values():
                self.relieve(client)

    def relieve(self, client: _Client) -> None:
        """Close the group of a client that is furthest along, if nothing else would go on."""
        now_s = self._clock()
        quiet_s = now_s - client.last_arrival_s
        if client.probe is not None and now_s - client.probe[0] > QUIET_S:
            client.at_least, client.probe = max(client.at_least, client.probe[1]), None
        stuck = client.held > 0 and client.held == sum(client.waiting.values())
        at_cap = client.cap is not None and client.held >= client.cap
        if not stuck or client.probe is not None and not at_cap:
            return
        if at_cap or (client.held >= max(MIN_CAP, client.at_least + 1) and quiet_s >= QUIET_S):
            group = max(client.groups.values(), key=lambda one: client.arrived[one.name] / one.size)
            client.probe = now_s, client.held
            self._forget(client, group.name)
            group.close()
