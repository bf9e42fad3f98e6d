"""Converts SIGINT, SIGTERM and SIGHUP to an event that long-running commands wait for."""

import signal
import threading
from queue import SimpleQueue
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def stop_event() -> threading.Event:
    """Return an event that the first signal sets; a second signal ends the process at once.

    An ignored SIGHUP stays ignored, as `nohup` needs it.
    """
    stop = threading.Event()
    asked: SimpleQueue[int] = SimpleQueue()
    heeded = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]

    def ask(number: int, _frame: FrameType | None) -> None:
        for each in heeded:
            signal.signal(each, signal.SIG_DFL)
        # Handlers interrupt the main thread. If it holds the event's lock, `Event.set` would deadlock
        # here; `SimpleQueue.put` is reentrant.
        asked.put(number)

    def pass_on() -> None:
        asked.get()
        stop.set()

    threading.Thread(target=pass_on, name="oyer-stopping", daemon=True).start()
    for number in heeded:
        signal.signal(number, ask)
    return stop
