"""A second trainer process that a test tells what to hand over, and may kill."""

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from typing import Any, Literal

from oyer.manager import RewardManager, Rollout
from oyer.manager.score import Score
from oyer.manager.streaming import group_store
from oyer.manager.streaming.pending import Pending

Point = Literal["claimed", "published"]
"""When a process kills itself: holding a claim, or after publishing a batch without its tasks."""

CLAIM_S = 0.3
"""Expiry of the claims of a process that kills itself, so that tests are short."""

WAIT_S = 120.0


class OtherProcess:
    """Hands over rollouts one by one, and keeps what comes of them."""

    def __init__(self, manager: RewardManager, dies_when: Point | None = None) -> None:
        """Start it with a copy of a manager, which makes both processes one training."""
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_main, args=(theirs, manager, dies_when), daemon=True
        )
        self._process.start()
        theirs.close()

    def submit(self, rollouts: Sequence[Rollout], **where: Any) -> None:
        """Call `score` for each in that process; returns when it has."""
        self._pipe.send((rollouts, where))
        self._answer()

    def scores(self) -> list[Score | Exception]:
        """Wait for what came of all that it was given since the last time, in order."""
        self._pipe.send(None)
        answer = self._answer()
        assert isinstance(answer, list)
        return answer

    def close_groups(self, group_ids: Sequence[str], **options: Any) -> None:
        """Call `close_groups` in that process; returns when the groups are closed."""
        self._pipe.send(((), {"group_ids": group_ids, **options}))
        self._answer()

    def wait_dead(self) -> None:
        """Wait until it has killed itself."""
        self._process.join(WAIT_S)
        assert self._process.exitcode == -signal.SIGKILL

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()
        self._process.join()

    def _answer(self) -> Any:
        assert self._pipe.poll(WAIT_S), "the other process does not answer"
        return self._pipe.recv()


@contextlib.contextmanager
def other_process(manager: RewardManager, dies_when: Point | None = None) -> Iterator[OtherProcess]:
    """Run a process with a copy of a manager."""
    other = OtherProcess(manager, dies_when)
    try:
        yield other
    finally:
        other.kill()


def _main(pipe: Connection, manager: RewardManager, dies_when: Point | None) -> None:
    if dies_when is not None:
        _die_at(dies_when)
    pending: list[Pending[Score]] = []
    with contextlib.suppress(EOFError):
        while True:
            task = pipe.recv()
            if task is None:
                pipe.send([_outcome(one) for one in pending])
                pending = []
            else:
                rollouts, where = task
                if "group_ids" in where:
                    manager.close_groups(**where).result(WAIT_S)
                pending += [manager.score(rollout, **where) for rollout in rollouts]
                pipe.send(None)


def _outcome(pending: Pending[Score]) -> Score | Exception:
    try:
        return pending.result(WAIT_S)
    except Exception as error:  # noqa: BLE001 - the test checks it
        return error


def _die_at(point: Point) -> None:
    group_store.CLAIM_S = CLAIM_S
    publish = group_store.GroupStore.publish

    def publish_and_die(*args: Any) -> Any:
        if point == "published":
            publish(*args)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(group_store.GroupStore, "publish", publish_and_die)  # noqa: B010 - mypy refuses the assignment
