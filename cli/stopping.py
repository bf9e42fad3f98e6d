"""Ctrl-C and SIGTERM as an event that a long-running command waits for."""

import signal
import threading
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def stop_event() -> threading.Event:
    """Return an event that the first signal sets; a second signal ends the process at once."""
    stop = threading.Event()

    def ask(_number: int, _frame: FrameType | None) -> None:
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        stop.set()

    for number in _SIGNALS:
        signal.signal(number, ask)
    return stop
