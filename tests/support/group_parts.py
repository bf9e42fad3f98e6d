"""Parts in the groups of a broker, and what a test says to them."""

import contextlib
from collections.abc import Iterator

import redis

from oyer.manager.streaming.group_store import Bringing, Brought, GroupStore, Place, Seen
from oyer.manager.streaming.identity import TimeoutPolicy

HOURS_S = 36000.0


@contextlib.contextmanager
def reached() -> Iterator[None]:
    """Let errors of Redis through."""
    yield


def meeting_on(client: redis.Redis) -> GroupStore:
    """Take part as a process of its own would."""
    return GroupStore(client, reached, 600)


def bring(
    where: GroupStore,
    *ids: str,
    group: str = "g",
    size: int = 3,
    step: int | None = 1,
    timeout_s: float = HOURS_S,
    on_timeout: TimeoutPolicy = "partial",
) -> Brought:
    """Bring members whose payload is their name."""
    bringing = Bringing(
        group=group,
        size=size,
        step=step,
        timeout_s=timeout_s,
        on_timeout=on_timeout,
        ids=ids,
        parts=(",".join(ids).encode(), b"rows of " + ",".join(ids).encode(), b""),
    )
    return where.look([bringing])[0][0]


def look(where: GroupStore, place: Place) -> Seen:
    """Look at a group."""
    return where.look(places=[place])[1][0]


def place_of(brought: Brought, member: int = 0, group: str = "g") -> Place:
    """Where a member was put."""
    return group, brought.places[member][0]


def rows_of(brought: Brought) -> list[tuple[int, bool]]:
    """The rows that members were put into, and whether they were new."""
    return [(row, fresh) for _, row, fresh in brought.places]
