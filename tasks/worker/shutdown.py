"""Stops a worker: running calls may finish for a grace time, then the process exits.

- SIGTERM requests it; a second signal exits at once. SIGQUIT is never sent: on it, Celery
  acknowledges unfinished tasks.
- A chunk starts no further call, and returns to its queue when its running calls have ended.
  A task that does not end in time stays unacknowledged: its lease expires, and another worker gets it.
- Celery waits without limit for a task that cannot store its result because Redis is down, and for
  a greenlet that hangs. The exit runs on an OS thread, also under gevent, so neither can block it.
"""

import os
from typing import Any

from celery.signals import worker_shutting_down
from gevent.monkey import get_original

from oyer.protocol.errors import InvalidConfig, OyerError


class HandedBack(OyerError):
    """The task returns to its queue for another worker; its results so far are in the database."""


class Shutdown:
    """The shutdown state of this process.

    Attributes:
        grace_s: time for running calls after the first signal, in seconds.
        requested: True after the first signal.
        handed_back: number of chunks that returned to their queue.
    """

    def __init__(self, grace_s: float) -> None:
        self.grace_s = grace_s
        self.requested = False
        self.handed_back = 0

    def install(self) -> None:
        """Handle the signals of this process.

        Raises:
            InvalidConfig: Celery is configured to treat SIGTERM as SIGQUIT.
        """
        if os.environ.get("REMAP_SIGTERM"):
            raise InvalidConfig(
                "REMAP_SIGTERM: is set; unset it, or a stopping worker loses the work in its hands"
            )
        worker_shutting_down.connect(self._on_signal, weak=False)

    def _on_signal(self, exitcode: int = 0, **_: Any) -> None:
        """Called by Celery's handler for each SIGTERM and SIGINT."""
        if self.requested:
            os._exit(1)
        self.requested = True
        start_thread = get_original("_thread", "start_new_thread")
        start_thread(self._exit_after_grace, (exitcode,))

    def _exit_after_grace(self, exitcode: int) -> None:
        get_original("time", "sleep")(self.grace_s)
        os.write(2, b"stopping before every task has ended: other workers get what is left\n")
        os._exit(exitcode)
