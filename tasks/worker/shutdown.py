"""How a worker ends: its calls may finish for a while, then the process goes, whatever it waits for.

- SIGTERM asks; a second signal ends at once. SIGQUIT is never sent: on it, Celery acknowledges
  what it has not done.
- A chunk begins no further call, and goes back to its queue when its calls in flight have ended.
  What does not end in time stays unacknowledged: its lease runs out, and another worker gets it.
- Celery waits without a limit for a task that cannot store its result because Redis is away, and
  for a greenlet that hangs. The watchdog is a thread of the operating system, also under gevent,
  so that neither holds it up.
"""

import os
from functools import partial
from typing import Any

from celery.signals import worker_shutting_down
from gevent.monkey import get_original

from oyer.protocol.errors import InvalidConfig, OyerError

_asked = False
_handed_back = 0


class HandedBack(OyerError):
    """The task goes back to its queue for another worker; what it has done is on record."""


def asked() -> bool:
    """Whether this worker was asked to stop, so that it begins nothing new."""
    return _asked


def note_hand_back() -> None:
    """Count a chunk that goes back to its queue."""
    global _handed_back
    _handed_back += 1


def handed_back() -> int:
    """Return how many chunks went back to their queue."""
    return _handed_back


def install(grace_s: float) -> None:
    """Watch over the end of this process.

    Args:
        grace_s: time that calls in flight have to finish after the first signal, in seconds.

    Raises:
        InvalidConfig: Celery was told to take SIGTERM for SIGQUIT.
    """
    if os.environ.get("REMAP_SIGTERM"):
        raise InvalidConfig(
            "REMAP_SIGTERM: is set; unset it, or a stopping worker loses the work in its hands"
        )
    worker_shutting_down.connect(partial(_on_signal, grace_s), weak=False)


def _on_signal(grace_s: float, exitcode: int = 0, **_: Any) -> None:
    """Celery calls this in its handler of SIGTERM and SIGINT, for each that arrives."""
    global _asked
    if _asked:
        os._exit(1)
    _asked = True
    start_thread = get_original("_thread", "start_new_thread")
    start_thread(_end_after, (grace_s, exitcode))


def _end_after(grace_s: float, exitcode: int) -> None:
    get_original("time", "sleep")(grace_s)
    os.write(2, b"stopping before every task has ended: other workers get what is left\n")
    os._exit(exitcode)
