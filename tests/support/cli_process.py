"""Runs `oyer` as a process in a folder, as users do."""

import contextlib
import json
import os
import resource
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.support import cli_fork, services

ARGV = [sys.executable, "-m", "oyer.cli"]

TIMEOUT_S = 120.0
"""Longest wait for a command or a process to end; the machine may be busy."""


def environment(**changes: str) -> dict[str, str]:
    """Return an environment without variables that configure Oyer or colour its output."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("OYER_")}
    return {**plain, "NO_COLOR": "1", "COLUMNS": "120", **changes}


OpenFiles = tuple[int, int]
"""Soft and hard limit of a process's open files."""

_START_UP = {"--help", "--version", "demo", "serve", "up", "worker"}
"""Commands that get an interpreter of their own: how they start is part of what they do."""


def oyer(*arguments: str, cwd: Path, **changes: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, with an empty standard input.

    Args:
        arguments: of `oyer`.
        cwd: the folder that it runs in.
        changes: environment variables.
    """
    environ = environment(**changes)
    if arguments[0] in _START_UP:
        return oyer_program(*arguments, cwd=cwd, environ=environ)
    return cli_fork.run(arguments, cwd, environ, TIMEOUT_S)


def oyer_program(
    *arguments: str, cwd: Path, environ: Mapping[str, str], open_files: OpenFiles | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end in a new interpreter.

    Args:
        arguments: of `oyer`.
        cwd: the folder that it runs in.
        environ: its whole environment.
        open_files: limits of the process; its parent's when None.
    """
    return subprocess.run(
        [*ARGV, *arguments],
        cwd=cwd,
        env=environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
        preexec_fn=lambda: _limit(open_files),
    )


def _limit(open_files: OpenFiles | None) -> None:
    if open_files is not None:
        resource.setrlimit(resource.RLIMIT_NOFILE, open_files)


class Running:
    """A running command whose output is read line by line."""

    def __init__(
        self,
        *arguments: str,
        cwd: Path,
        environ: Mapping[str, str],
        merged: bool,
        open_files: OpenFiles | None,
    ) -> None:
        def prepare() -> None:
            _limit(open_files)
            services.die_with_parent(signal.SIGTERM)

        self.cwd = cwd
        self._errors = (cwd / "stderr.txt").open("w")
        self.process = subprocess.Popen(
            [*ARGV, *arguments],
            cwd=cwd,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if merged else self._errors,
            text=True,
            preexec_fn=prepare,  # noqa: PLW1509 - calls of libc, no lock
        )
        self.lines: list[str] = []

    def read_until(self, part: str) -> str:
        """Read lines up to the first one that holds a text, and return that line."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))
            if part in line:
                return self.lines[-1]
        raise AssertionError(f"ended without {part!r}: {self.lines} {self.errors()}")

    def events(self) -> list[dict[str, Any]]:
        """Return the lines read so far, parsed as JSON."""
        return [json.loads(line) for line in self.lines]

    def errors(self) -> str:
        """Return the standard error so far."""
        return (self.cwd / "stderr.txt").read_text()

    def family(self) -> "Family":
        """Return the process and its children, to wait for their end."""
        return Family([self.process.pid, *children_of(self.process.pid)])

    def wait(self) -> int:
        """Read the remaining output and return the exit status."""
        assert self.process.stdout is not None
        self.lines += self.process.stdout.read().splitlines()
        return self.process.wait(TIMEOUT_S)

    def close(self) -> None:
        """End the process, if it has not ended yet."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        self.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._errors.close()


@contextlib.contextmanager
def running(
    *arguments: str,
    cwd: Path,
    changes: Mapping[str, str] | None = None,
    merged: bool = False,
    open_files: OpenFiles | None = None,
) -> Iterator[Running]:
    """Run a command in a new interpreter until the block ends.

    Args:
        arguments: of `oyer`.
        cwd: the folder that it runs in.
        changes: environment variables.
        merged: read standard error as part of the output.
        open_files: limits of the process; its parent's when None.
    """
    environ = environment(**(changes or {}))
    command = Running(*arguments, cwd=cwd, environ=environ, merged=merged, open_files=open_files)
    try:
        yield command
    finally:
        command.close()


class Family:
    """Processes held by file descriptors, so that a reused process id does no harm."""

    def __init__(self, pids: list[int]) -> None:
        self._pids = {os.pidfd_open(pid): pid for pid in pids}

    def __len__(self) -> int:
        return len(self._pids)

    def wait_gone(self) -> None:
        """Wait until every process has ended.

        Raises:
            AssertionError: One has not ended in time; the message names it.
        """
        while self._pids:
            ended, _, _ = select.select(list(self._pids), [], [], TIMEOUT_S)
            if not ended:
                raise AssertionError(f"still running: {sorted(self._pids.values())}")
            for descriptor in ended:
                del self._pids[descriptor]
                os.close(descriptor)


def children_of(pid: int) -> list[int]:
    """List the running child processes of a process."""
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(word) for word in text.split()]
