"""Child processes: workers and servers that are kept alive, and never left behind."""

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
"""Told about each part: its name and its state."""

RESTART_PAUSE_S = 1.0
"""A child that died is started again after this long, and at most this often."""

_TAIL_BYTES = 2000
"""How much of a child's log an error message shows."""

_PR_SET_PDEATHSIG = 1
"""prctl(2): which signal a process gets when its parent dies."""

_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


class Child:
    """One child process, and where its output goes."""

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
        """Describe a child; `start` runs it.

        Args:
            name: for reports and the log file.
            argv: its command line.
            environ: its whole environment.
            log_folder: where `<name>.log` is appended to; this process's standard error if None.
            stdin: what it reads on its standard input at each start.
            grace_s: time it has to stop before it is killed; None waits as long as it takes.
        """
        self.name = name
        self._argv = argv
        self._environ = environ
        self._stdin = stdin
        self._grace_s = grace_s
        self._log = log_folder / f"{name}.log" if log_folder else None
        self._process: subprocess.Popen[bytes] | None = None
        self._asked_at = 0.0

    @property
    def pid(self) -> int:
        """Process id; 0 before the start."""
        return self._process.pid if self._process else 0

    @property
    def returncode(self) -> int | None:
        """Exit status; None while it runs."""
        return self._process.returncode if self._process else None

    def start(self) -> None:
        """Start, or start again; a session of its own keeps a terminal's Ctrl-C away."""
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
            # A child that ended already is noticed by `ended`, with its log.
            with contextlib.suppress(BrokenPipeError), self._process.stdin as pipe:
                pipe.write(self._stdin.encode())

    def _output(self) -> contextlib.AbstractContextManager[IO[Any]]:
        if self._log is None:
            return contextlib.nullcontext(sys.stderr)
        # A log holds one run of the parent, restarts of the child included.
        return self._log.open("ab" if self._process else "wb")

    def ended(self) -> bool:
        """Whether the process has ended."""
        return self._process is None or self._process.poll() is not None

    def ask_to_stop(self) -> None:
        """Send SIGTERM; never SIGQUIT, on which Celery acknowledges what it has not done."""
        self._asked_at = time.monotonic()
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()

    def wait_stopped(self) -> None:
        """Wait for the end, and kill after the grace period."""
        if self._process is None:
            return
        limit_s = None
        if self._grace_s is not None:
            limit_s = max(0.1, self._asked_at + self._grace_s - time.monotonic())
        try:
            self._process.wait(limit_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def tail(self) -> str:
        """Return the end of the log file."""
        if self._log is None:
            return "its output is above"
        return self._log.read_text(errors="replace")[-_TAIL_BYTES:].strip() or "no output"


def keep_alive(children: Sequence[Child], stop: threading.Event, report: Report) -> int:
    """Start again whichever child ends, until `stop` is set.

    Runs on the main thread: Linux ends the children of the thread that started them.

    Returns:
        0, or `EX_CONFIG` once a child ends with it: a new start would end in the same way.
    """
    while not stop.wait(RESTART_PAUSE_S):
        for child in children:
            if child.ended():
                returncode = child.returncode
                if returncode == os.EX_CONFIG:
                    report(child.name, "cannot work, see its log above")
                    return os.EX_CONFIG
                child.start()
                report(child.name, f"ended with {returncode}; started again")
    return 0


def stop_all(children: Sequence[Child], report: Report) -> None:
    """Ask every child to stop, then wait for each."""
    for child in children:
        child.ask_to_stop()
    for child in children:
        child.wait_stopped()
        report(child.name, "stopped")


def run_to_end(argv: list[str], environ: dict[str, str]) -> tuple[int, str]:
    """Run a short command; returns exit status and the end of its output."""
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
