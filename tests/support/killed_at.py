"""Runs a Celery worker that kills itself the first time it comes to a point inside of Celery.

    python -m tests.support.killed_at counting MARKER -A oyer.tasks worker …

The marker file says that it has happened, so that the next worker passes.
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def main() -> None:
    """Patch the point, then be `celery`."""
    point, marker = sys.argv[1], Path(sys.argv[2])
    del sys.argv[1:3]
    from celery import maybe_patch_concurrency

    maybe_patch_concurrency()
    from celery.__main__ import main as celery
    from celery.app.amqp import AMQP
    from celery.backends.redis import RedisBackend

    owner, name = {
        "counting": (RedisBackend, "on_chord_part_return"),
        "publishing": (AMQP, "_retry_publish"),
    }[point]
    setattr(owner, name, _deadly(getattr(owner, name), marker))
    celery()


def _deadly(function: Callable[..., Any], marker: Path) -> Callable[..., Any]:
    def once(*args: Any, **kwargs: Any) -> Any:
        if marker.exists():
            return function(*args, **kwargs)
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)

    return once


if __name__ == "__main__":
    main()
