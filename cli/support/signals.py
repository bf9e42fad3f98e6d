"""Ctrl-C, SIGTERM and a closed terminal as an event that a long-running command waits for."""

import signal
import threading
from queue import SimpleQueue
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def stop_event() -> threading.Event:
    """Return an event that the first signal sets; a second signal ends the process at once.

    Under `nohup` the terminal may close: a SIGHUP that is ignored stays ignored.
    """
    stop = threading.Event()
    asked: SimpleQueue[int] = SimpleQueue()
    heeded = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]

    def ask(number: int, _frame: FrameType | None) -> None:
        for each in heeded:
            signal.signal(each, signal.SIG_DFL)
        # Handlers run on the main thread. Were that about to wait for the event, setting it here
        # would wait for a lock that the same thread holds; a `SimpleQueue` may be put to anywhere.
        asked.put(number)

    def pass_on() -> None:
        asked.get()
        stop.set()

    threading.Thread(target=pass_on, name="oyer-stopping", daemon=True).start()
    for number in heeded:
        signal.signal(number, ask)
    return stop
