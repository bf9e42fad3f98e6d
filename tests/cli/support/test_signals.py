"""Stopping by a signal at any moment."""

import subprocess
import sys

WAITING = """
import os, signal
from oyer.cli.support.signals import stop_event

signal.signal(signal.SIGHUP, signal.SIG_DFL)
stop = stop_event()
with stop._cond:  # held for a moment at the beginning and the end of `stop.wait`
    os.kill(os.getpid(), signal.{signal})
{then}
"""


def run(signal: str, then: str = "assert stop.wait(20)") -> int:
    argv = [sys.executable, "-c", WAITING.format(signal=signal, then=then)]
    return subprocess.run(argv, timeout=60, check=False).returncode


def test_a_signal_at_the_start_of_the_wait_sets_the_event() -> None:
    assert run("SIGINT") == 0
    assert run("SIGTERM") == 0
    assert run("SIGHUP") == 0


def test_a_second_signal_ends_the_process() -> None:
    assert run("SIGINT", then="os.kill(os.getpid(), signal.SIGINT)") == -2
