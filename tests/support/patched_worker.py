"""Runs a Celery worker in which one thing differs from a worker of this release and host.

    python -m tests.support.patched_worker PATCH [VALUE…] (arguments of `python -m oyer.tasks`)

- `next-release`: its messages have the next wire version.
- `clock SECONDS`: its epoch clock is ahead by so many seconds, or behind.
- `kill-at POINT MARKER`: it kills itself the first time it reaches a point inside Celery, and
  creates the marker file, so that the next worker passes the point.
"""

import os
import runpy
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from celery import maybe_patch_concurrency


def next_release() -> None:
    """Raise the wire version."""
    from oyer.protocol import packing

    packing.WIRE_VERSION += 1


def clock(skew_s: str) -> None:
    """Shift the epoch clock."""
    right = time.time
    time.time = lambda: right() + float(skew_s)


def kill_at(point: str, marker: str) -> None:
    """Kill the process at the point, unless the marker exists."""
    from celery.app.amqp import AMQP
    from celery.backends.redis import RedisBackend

    owner, name = {
        "counting": (RedisBackend, "on_chord_part_return"),
        "publishing": (AMQP, "_retry_publish"),
    }[point]
    setattr(owner, name, _killing(getattr(owner, name), Path(marker)))


def _killing(function: Callable[..., Any], marker: Path) -> Callable[..., Any]:
    def once(*args: Any, **kwargs: Any) -> Any:
        if marker.exists():
            return function(*args, **kwargs)
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)

    return once


PATCHES: dict[str, tuple[Callable[..., None], int]] = {
    "next-release": (next_release, 0),
    "clock": (clock, 1),
    "kill-at": (kill_at, 2),
}
"""Each patch and the number of its values."""


def main() -> None:
    """Apply the patch, then run the worker with the remaining arguments."""
    apply, count = PATCHES[sys.argv[1]]
    values = sys.argv[2 : 2 + count]
    del sys.argv[1 : 2 + count]
    # gevent patches the standard library before Celery's other modules are imported.
    maybe_patch_concurrency()
    apply(*values)
    runpy.run_module("oyer.tasks", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
