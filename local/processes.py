"""Child processes that are restarted when they die, and that end with their parent."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

Report = Callable[[str, str], None]
"""Called with the name and the state of a process."""

RESTART_PAUSE_S = 1.0
"""Minimum pause before a dead child is restarted."""

_TAIL_BYTES = 2000
"""Size of the end of a child's log that an error message includes."""

_PR_SET_PDEATHSIG = 1
"""prctl(2): sets the signal that a process gets when its parent dies."""

_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


class Child:
    """A child process and its log."""

    def __init__(
        self,
        name: str,
        argv: list[str],
        environ: dict[str, str],
        *,
        log_folder: Path | None = None,
        stdin: str | None = None,
        grace_s: float | None = None,
    ) -> None:
        """Set up a child; `start` runs it.

        Args:
            name: used in reports and in the name of the log file.
            argv: the command line.
            environ: the complete environment.
            log_folder: folder of `<name>.log`; None sends output to this process's standard error.
            stdin: written to the child's standard input at each start.
            grace_s: time between SIGTERM and SIGKILL, in seconds; None never kills.
        """
        self.name = name
        self._argv = argv
        self._environ = environ
        self._stdin = stdin
        self._grace_s = grace_s
        self._log = log_folder / f"{name}.log" if log_folder else None
        self._process: subprocess.Popen[bytes] | None = None
        self._asked_at_s = 0.0

    @property
    def pid(self) -> int:
        """Process id; 0 before `start`."""
        return self._process.pid if self._process else 0

    @property
    def returncode(self) -> int | None:
        """Exit status; None while it runs."""
        return self._process.returncode if self._process else None

    def start(self) -> None:
        """Start or restart, in a new session so that a terminal's Ctrl-C does not reach the child."""
        with self._output() as output:
            self._process = subprocess.Popen(
                self._argv,
                env=self._environ,
                stdin=subprocess.PIPE if self._stdin is not None else subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=_die_with_parent,  # noqa: PLW1509 - one libc call, no lock
            )
        if self._stdin is not None:
            assert self._process.stdin is not None
            # If the child has ended already, `ended` reports it.
            with contextlib.suppress(BrokenPipeError), self._process.stdin as pipe:
                pipe.write(self._stdin.encode())

    def _output(self) -> contextlib.AbstractContextManager[IO[Any]]:
        if self._log is None:
            return contextlib.nullcontext(sys.stderr)
        # Restarts append to the log; a new parent process overwrites it.
        return self._log.open("ab" if self._process else "wb")

    def ended(self) -> bool:
        """Whether the process has ended."""
        return self._process is None or self._process.poll() is not None

    def ask_to_stop(self) -> None:
        """Send SIGTERM; on SIGQUIT, Celery acknowledges unfinished messages."""
        self._asked_at_s = time.monotonic()
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()

    def wait_stopped(self) -> None:
        """Wait until the child ends, and kill it after the grace period."""
        if self._process is None:
            return
        limit_s = None
        if self._grace_s is not None:
            limit_s = max(0.1, self._asked_at_s + self._grace_s - time.monotonic())
        try:
            self._process.wait(limit_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def tail(self) -> str:
        """Return the end of the log file."""
        if self._log is None:
            return "see its output above"
        return self._log.read_text(errors="replace")[-_TAIL_BYTES:].strip() or "no output"


def keep_alive(children: Sequence[Child], stop: threading.Event, report: Report) -> int:
    """Restart each child that ends until `stop` is set.

    Call it on the main thread: Linux signals the children when the thread that started them ends.

    Returns:
        0, or `EX_CONFIG` once a child ends with it, since a restart would fail in the same way.
    """
    while not stop.wait(RESTART_PAUSE_S):
        for child in children:
            if child.ended():
                returncode = child.returncode
                if returncode == os.EX_CONFIG:
                    report(child.name, "configuration error, see its log above")
                    return os.EX_CONFIG
                child.start()
                report(child.name, f"ended with {returncode}; started again")
    return 0


def stop_all(children: Sequence[Child], report: Report) -> None:
    """Send SIGTERM to every child, then wait for each."""
    for child in children:
        child.ask_to_stop()
    for child in children:
        child.wait_stopped()
        report(child.name, "stopped")


def run_to_end(argv: list[str], environ: dict[str, str]) -> tuple[int, str]:
    """Run a short command; returns its exit status and the end of its output."""
    done = subprocess.run(
        argv,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout[-_TAIL_BYTES:].strip()


def _die_with_parent() -> None:
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM.value)
