"""Keeps requests that wait for siblings from holding all connections of a client.

Clients cap their connections (slime: 64), and HTTP does not say so. If every connection of a client is
held by a request that waits for siblings, and those cannot be sent for want of a connection, none would
ever be answered. When no request has arrived for a while, the group that is furthest along is closed
and answered, as a probe. If further requests follow at once, the client is at its cap: from then on,
requests give way as soon as that many wait. If none follow, the siblings are still being generated.

slime's `remote_rm` asks again after a 503, one second later and then less and less often, so its
requests give way by a 503, and their groups stay whole. For other clients a group is closed.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from oyer.manager import RewardManager, Rollout

MIN_CAP = 8
"""Smallest number of connections that is taken for a cap."""

QUIET_S = 2.0
"""How long no request arrives before the probe, in seconds."""

GAP_FACTOR = 4
"""A client that has sent whole groups sends no more if nothing arrives for this multiple of the longest
recent pause between its requests, at least `QUIET_S`; e.g. a prompt is evaluated with one sample."""

MAX_GIVEN_WAY = 4
"""How often a request gives way, of slime's ten attempts; its pauses then add up to about 20 s."""

_CHECK_INTERVAL_S = 0.1
"""Interval at which the held requests are checked, in seconds."""

_FOLLOW_S = 1.0
"""How soon requests follow an answer if they waited for its connection, in seconds."""


@dataclass(frozen=True, eq=False)
class HeldGroup:
    """A group whose rollouts arrive in several requests."""

    name: str
    size: int
    close: Callable[[], object]
    """Says that no more rollouts of it will come."""


@dataclass(eq=False)
class Connection:
    """A request that is held open."""

    key: str
    """Of its reply."""
    asks_again: bool
    """Whether its client asks again after a 503."""
    gives_way: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(eq=False)
class _Probe:
    """A group that was closed to find out whether its client is at its cap."""

    held: int
    """Connections that were held then."""
    answered_s: float | None = None
    """When the first connection was answered after that."""


@dataclass(eq=False)
class _Client:
    connections: set[Connection] = field(default_factory=set)
    last_arrival_s: float = 0.0
    gaps_s: deque[float] = field(default_factory=lambda: deque(maxlen=1024))
    """Latest pauses between requests while others were held."""
    ports: set[int] = field(default_factory=set)
    reuses: bool = False
    """Whether it sends several requests over one connection, as a client with a pool does."""
    probe: _Probe | None = None
    cap: int | None = None
    more_than: int = 0
    """Number of held connections at which it still had others."""

    def end_probe(self) -> None:
        """Note that the client was not at its cap."""
        if self.probe is not None:
            self.more_than, self.probe = max(self.more_than, self.probe.held), None


class HeldRequests:
    """The requests of one event loop that wait for siblings."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._clients: dict[str, _Client] = {}
        self._members: dict[str, Sequence[HeldGroup]] = {}
        """The groups of each reply in progress, one entry per rollout."""
        self._arrived: dict[str, int] = {}
        """Rollouts so far, by incomplete group."""
        self._given_way: dict[str, int] = {}
        self._whole_groups = 0
        self._checking: asyncio.Task[None] | None = None

    @contextmanager
    def connection(
        self, host: str, port: int, key: str, *, asks_again: bool
    ) -> Iterator[Connection]:
        """Count a connection while it is held."""
        client = self._clients.setdefault(host, _Client())
        if key not in self._given_way:
            self._note_arrival(client, port)
        one = Connection(key, asks_again)
        client.connections.add(one)
        if self._checking is None or self._checking.done():
            self._checking = asyncio.create_task(self._check())
        try:
            yield one
        finally:
            client.connections.discard(one)
            if client.probe is not None and client.probe.answered_s is None:
                client.probe.answered_s = self._clock()

    @contextmanager
    def reply(self, key: str, groups: Sequence[HeldGroup]) -> Iterator[None]:
        """Count the rollouts of a reply as arrived, and as waiting until it is made."""
        self._members[key] = groups
        for group in groups:
            self._arrived[group.name] = self._arrived.get(group.name, 0) + 1
            if self._arrived[group.name] >= group.size:
                del self._arrived[group.name]
                self._whole_groups += 1
        try:
            yield
        finally:
            del self._members[key]
            self._given_way.pop(key, None)
            for group in groups:
                if not any(group.name == one.name for one in self._open_groups()):
                    self._arrived.pop(group.name, None)

    def _note_arrival(self, client: _Client, port: int) -> None:
        now_s = self._clock()
        if client.connections:
            client.gaps_s.append(now_s - client.last_arrival_s)
        client.last_arrival_s = now_s
        client.reuses = client.reuses or port in client.ports
        client.ports.add(port)
        if (probe := client.probe) is None:
            return
        if probe.answered_s is None:
            client.end_probe()  # it had a free connection
        elif now_s - probe.answered_s <= _FOLLOW_S:
            client.cap, client.probe = probe.held, None

    async def _check(self) -> None:
        while any(client.connections for client in self._clients.values()):
            asleep_s = self._clock()
            await asyncio.sleep(_CHECK_INTERVAL_S)
            late_s = max(0.0, self._clock() - asleep_s - _CHECK_INTERVAL_S)
            for client in self._clients.values():
                # While this process did not run, it read no request that arrived.
                client.last_arrival_s += late_s
                if client.probe is not None and client.probe.answered_s is not None:
                    client.probe.answered_s += late_s
                self._relieve(client)

    def _relieve(self, client: _Client) -> None:
        """Let a request give way or close a group, if nothing else would go on."""
        now_s, held = self._clock(), len(client.connections)
        answered_s = None if client.probe is None else client.probe.answered_s
        if answered_s is not None and now_s - answered_s > _FOLLOW_S:
            client.end_probe()
        if not held or not all(self._waits(one) for one in client.connections):
            return
        quiet_s = now_s - client.last_arrival_s
        longest_s = GAP_FACTOR * max(client.gaps_s, default=0.0)
        if client.cap is not None and held >= client.cap:
            self._give_way(client)
        elif self._whole_groups and held < MIN_CAP and quiet_s >= max(QUIET_S, longest_s):
            self._close_one(client)
        elif (
            client.probe is None
            and held >= max(MIN_CAP, client.more_than + 1)
            and quiet_s >= QUIET_S
        ):
            client.probe = _Probe(held)
            self._close_one(client)

    def _give_way(self, client: _Client) -> None:
        """Free connections of a client at its cap: half of them, those furthest from an answer."""
        able = [
            one
            for one in client.connections
            if one.asks_again and client.reuses and self._given_way.get(one.key, 0) < MAX_GIVEN_WAY
        ]
        if not able:
            self._close_one(client)
            return
        able.sort(key=self._progress)
        for one in able[: max(1, len(client.connections) // 2)]:
            self._given_way[one.key] = self._given_way.get(one.key, 0) + 1
            one.gives_way.set()

    def _close_one(self, client: _Client) -> None:
        """Close the group of a client that is furthest along."""
        furthest = max(client.connections, key=self._progress)
        groups = [one for one in self._members[furthest.key] if one.name in self._arrived]
        group = max(groups, key=lambda one: self._arrived[one.name] / one.size)
        del self._arrived[group.name]
        group.close()

    def _waits(self, one: Connection) -> bool:
        return any(group.name in self._arrived for group in self._members.get(one.key, ()))

    def _progress(self, one: Connection) -> float:
        groups = self._members.get(one.key, ())
        return max(self._arrived.get(group.name, 0) / group.size for group in groups)

    def _open_groups(self) -> Iterator[HeldGroup]:
        for groups in self._members.values():
            yield from groups


def held_group(manager: RewardManager, rollout: Rollout, options: Mapping[str, Any]) -> HeldGroup:
    """Return the group of a rollout that was submitted with `options`."""
    prompts = [rollout.prompt] if options["one_prompt"] else None
    return HeldGroup(
        f"{options.get('run')} {options['step']} {rollout.group_id}",
        options["group_size"],
        lambda: manager.close_groups([str(rollout.group_id)], prompts=prompts, **options),
    )
