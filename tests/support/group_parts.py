"""Processes that share groups on one broker, and what tests do with them."""

import time
from collections.abc import Sequence

from oyer.manager.backend.connection import Broker
from oyer.manager.streaming.group_store import GroupState, GroupStore, Joined
from oyer.manager.streaming.pending import GroupClosing, PendingRollout, TimeoutPolicy
from oyer.protocol.rollout import Rollout

HOURS_S = 36000.0


def store_on(url: str) -> GroupStore:
    """Return a store with its own token and mailbox, as another process has."""
    return GroupStore(Broker(url, 600))


def join(
    store: GroupStore,
    *ids: str,
    group: str = "g",
    size: int = 3,
    step: int | None = 1,
    timeout_s: float | None = HOURS_S,
    on_timeout: TimeoutPolicy = "partial",
    spread: str = "run",
) -> list[Joined]:
    """Add rollouts to a group."""
    rollouts = [
        PendingRollout(
            rollout=Rollout(prompt="p", response=name),
            id=name,
            run="r",
            step=step,
            group=group,
            group_size=size,
            group_due_s=None if timeout_s is None else time.monotonic() + timeout_s,
            spread=spread,
            on_group_timeout=on_timeout,
        )
        for name in ids
    ]
    return store.join([rollouts])


def close(
    store: GroupStore,
    absent: Sequence[str] | None = None,
    *,
    group: str = "g",
    size: int = 3,
    step: int | None = 1,
) -> None:
    """Note rollouts that will not come; None if no further one will."""
    store.close(
        [GroupClosing(groups=[group], group_size=size, step=step, absent=absent, expires_s=0.0)]
    )


def states_of(joined: Sequence[Joined]) -> list[GroupState]:
    """Return the state of each group that was joined."""
    return list({one.group.key: one.group for one in joined}.values())


def rows_of(joined: Sequence[Joined]) -> list[tuple[int, bool]]:
    """Return the rows of rollouts, and whether they were new."""
    return [(one.row, one.is_new) for one in joined]
