"""Runs a Celery worker in which one thing differs from a worker of this release and host.

    python -m tests.support.patched_worker PATCH [VALUE…] -A oyer.tasks worker …

- `next-release`: its messages have the next wire version.
- `clock SECONDS`: its epoch clock is ahead by so many seconds, or behind.
- `kill-at POINT MARKER`: it kills itself the first time it reaches a point inside Celery, and
  creates the marker file, so that the next worker passes the point.
"""

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


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


def main() -> None:
    """Apply the patch, then run `celery` with the remaining arguments."""
    # gevent patches the standard library before Celery's other modules are imported.
    from celery import maybe_patch_concurrency

    end = sys.argv.index("-A")
    patch, *values = sys.argv[1:end]
    del sys.argv[1:end]
    maybe_patch_concurrency()
    patches: dict[str, Callable[..., None]] = {
        "next-release": next_release,
        "clock": clock,
        "kill-at": kill_at,
    }
    patches[patch](*values)
    from celery.__main__ import main as celery

    celery()


if __name__ == "__main__":
    main()
