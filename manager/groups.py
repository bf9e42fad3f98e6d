"""Assembles the groups of rollouts that arrive one by one; pure, time is handed in."""

from dataclasses import dataclass, field
from typing import Generic, Literal, TypeVar

T = TypeVar("T")

TimeoutPolicy = Literal["partial", "neutral", "error"]
"""What becomes of a group that is late: scored as far as it is there; scored without length
terms; or an error for each of its rollouts."""

GroupKey = tuple[str, str, int]
"""Run, group id, group size."""


@dataclass(frozen=True)
class Gathering(Generic[T]):
    """A group under assembly."""

    key: GroupKey
    due_at: float
    """When it is taken as late, in seconds of the caller's clock."""
    on_timeout: TimeoutPolicy
    members: list[T] = field(default_factory=list)


class Groups(Generic[T]):
    """The groups that one process is assembling."""

    def __init__(self) -> None:
        self._open: dict[GroupKey, Gathering[T]] = {}

    def add(
        self, key: GroupKey, member: T, *, due_at: float, on_timeout: TimeoutPolicy
    ) -> list[T] | None:
        """Add a member; returns the whole group once it is complete.

        The first member decides when the group is late and what happens then.
        """
        gathering = self._open.setdefault(key, Gathering(key, due_at, on_timeout))
        gathering.members.append(member)
        if len(gathering.members) < key[2]:
            return None
        return self._open.pop(key).members

    def take_late(self, now: float) -> list[Gathering[T]]:
        """Give up the groups whose time is over."""
        late = [gathering for gathering in self._open.values() if gathering.due_at <= now]
        for gathering in late:
            del self._open[gathering.key]
        return late

    def next_due_at(self) -> float | None:
        """When the next group is late; None without open groups."""
        return min((gathering.due_at for gathering in self._open.values()), default=None)
