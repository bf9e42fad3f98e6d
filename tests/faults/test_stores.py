"""Locked tables and full disks: database writes are retried, so that paid replies are not lost."""

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from oyer import migrations
from oyer.demo.judge_server import JudgeServer
from oyer.manager import RewardBatch
from tests.support.fault_backend import Backend
from tests.support.fault_servers import PostgresServer, RedisServer, small_disk
from tests.support.rollouts import rollouts_of
from tests.support.waiting import wait_until

pytestmark = pytest.mark.faults

Undisturbed = Callable[[str, int], RewardBatch]
N = 48
EXACT = range(N, N + 1)
NEVER_S = 600.0
"""A stall timeout that no test lives to see: the record is waited for, not recovered from."""


def test_the_disk_of_postgres_is_full(
    backend: Backend, undisturbed: Undisturbed, postgres_part: PostgresServer
) -> None:
    # More rows than the free space of the table's last page and of its indexes holds.
    n = 4 * N
    expected = undisturbed("pg-full", n)
    with small_disk(postgres_part.folder / "small") as disk:
        future = backend.half_way("pg-full", n, stall_timeout_s=NEVER_S)
        with postgres_part.no_space_for("judgements", disk):
            backend.go_on()
            wait_until(lambda: _log_says(backend, "No space left on device"), "the disk was met")
        backend.check(future.result(timeout_s=120), expected, calls=range(n, n + 1))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the SQLite record and its workers' logs lie."""
    return tmp_path_factory.mktemp("sqlite")


@pytest.fixture(scope="module")
def on_sqlite(folder: Path) -> Iterator[Backend]:
    """A backend whose record is a SQLite file."""
    url = f"sqlite:///{folder / 'oyer.db'}"
    migrations.upgrade(url)
    server = RedisServer(folder / "redis")
    server.start()
    with JudgeServer() as judge:
        backend = Backend(folder, server, url, judge, length=[])
        try:
            backend.start("judge")
            backend.start("combine")
            backend.wait_ready()
            yield backend
        finally:
            judge.release()
            backend.stop()
            server.stop()


@pytest.mark.parametrize(
    "lock",
    ["BEGIN IMMEDIATE", "BEGIN; SELECT count(*) FROM judgements"],
    ids=["trap_14_writer", "reader"],
)
def test_a_sqlite_that_others_lock_is_waited_for(
    on_sqlite: Backend, folder: Path, lock: str
) -> None:
    expected = _in_peace(on_sqlite, lock)
    future = on_sqlite.half_way(lock, N, stall_timeout_s=NEVER_S)
    with contextlib.closing(sqlite3.connect(folder / "oyer.db", isolation_level=None)) as other:
        for statement in lock.split(";"):
            other.execute(statement).fetchall()
        on_sqlite.go_on()
        on_sqlite.judge.wait_until(lambda log: all(a.finished_at_s for a in log))
        if "SELECT" in lock:
            # Readers keep nobody from writing: the batch ends while one has the record open.
            future.result(timeout_s=180)
        other.execute("COMMIT")
    on_sqlite.check(future.result(timeout_s=180), expected, calls=EXACT)


def _in_peace(backend: Backend, tag: str) -> RewardBatch:
    batch = backend.manager().submit(rollouts_of(tag, N), run="peace").result(timeout_s=180)
    backend.judge.reset()
    return batch


def _log_says(backend: Backend, words: str) -> bool:
    return any(words in worker.output() for worker in backend.workers)
