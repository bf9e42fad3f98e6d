"""Ctrl-C, SIGTERM and a closed terminal as an event that a long-running command waits for."""

import signal
import threading
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def stop_event() -> threading.Event:
    """Return an event that the first signal sets; a second signal ends the process at once.

    Under `nohup` the terminal may close: a SIGHUP that is ignored stays ignored.
    """
    stop = threading.Event()
    heeded = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]

    def ask(_number: int, _frame: FrameType | None) -> None:
        for number in heeded:
            signal.signal(number, signal.SIG_DFL)
        stop.set()

    for number in heeded:
        signal.signal(number, ask)
    return stop
