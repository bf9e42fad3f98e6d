"""A SQLite file that is copied holds every row: after the last process ended, and by a backup."""

import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest

from oyer import migrations
from oyer.models.engine import checkpoint, copy_sqlite, open_engine
from oyer.models.writes import ensure_run_and_batch, record_chunk
from tests.support.paths import ROOT
from tests.support.record_rows import make_batch, make_rollout

KILLED = """
import os, sys
from oyer.models.writes import ensure_run_and_batch
from oyer.models.engine import open_engine
from tests.support.record_rows import make_batch
with open_engine(sys.argv[1]).begin() as conn:
    ensure_run_and_batch(conn, make_batch())
os.kill(os.getpid(), 9)
"""


def batches(file: Path) -> int:
    with closing(sqlite3.connect(file)) as conn:
        return int(conn.execute("SELECT count(*) FROM batches").fetchone()[0])


def test_a_checkpoint_moves_what_a_killed_process_left_into_the_file(
    sqlite_url: str, tmp_path: Path
) -> None:
    migrations.upgrade(sqlite_url)
    root = ROOT
    subprocess.run([sys.executable, "-c", KILLED, sqlite_url], cwd=root, check=False)
    wal = tmp_path / "oyer.db-wal"
    assert os.path.getsize(wal) > 0
    checkpoint(sqlite_url)
    assert not wal.exists()
    shutil.copy(tmp_path / "oyer.db", tmp_path / "copy.db")
    assert batches(tmp_path / "copy.db") == 1


def test_a_backup_is_whole_while_the_record_is_open(sqlite_url: str, tmp_path: Path) -> None:
    migrations.upgrade(sqlite_url)
    engine = open_engine(sqlite_url)
    with engine.begin() as conn:
        ensure_run_and_batch(conn, make_batch())
    copy_sqlite(engine, tmp_path / "copy.db")
    engine.dispose()
    assert batches(tmp_path / "copy.db") == 1
    assert not list(tmp_path.glob("*.part"))


def test_each_backup_has_whole_batches_while_a_worker_writes(
    sqlite_url: str, tmp_path: Path
) -> None:
    migrations.upgrade(sqlite_url)
    engine = open_engine(sqlite_url)
    done, written = threading.Event(), threading.Semaphore(0)

    def write() -> None:
        while not done.is_set():
            with engine.begin() as conn:
                key = ensure_run_and_batch(conn, make_batch())
                record_chunk(conn, key, rollouts=[make_rollout(i) for i in range(4)])
            written.release()

    writer = threading.Thread(target=write)
    writer.start()
    found = []
    try:
        for number in range(3):
            assert written.acquire(timeout=60)
            copy = tmp_path / f"copy-{number}.db"
            copy_sqlite(engine, copy)
            with closing(sqlite3.connect(copy)) as conn:
                rollouts = conn.execute("SELECT count(*) FROM rollouts").fetchone()[0]
            found.append((batches(copy), rollouts))
    finally:
        done.set()
        writer.join(60)
        engine.dispose()
    assert all(rollouts == 4 * count for count, rollouts in found)
    assert 0 < found[0][0] <= found[1][0] <= found[2][0]


def test_a_damaged_copy_is_no_backup(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that loses what was written is found by reading the copy again."""
    migrations.upgrade(sqlite_url)
    engine = open_engine(sqlite_url)
    with engine.begin() as conn:
        key = ensure_run_and_batch(conn, make_batch())
        record_chunk(conn, key, rollouts=[make_rollout(i) for i in range(400)])

    def lose(descriptor: int) -> None:
        size = os.fstat(descriptor).st_size
        os.pwrite(descriptor, bytes(size - 8192), 8192)

    monkeypatch.setattr(os, "fsync", lose)
    with pytest.raises(OSError, match=r"the copy is damaged: .*; is the disk sound"):
        copy_sqlite(engine, tmp_path / "copy.db")
    engine.dispose()
    assert not list(tmp_path.glob("copy.db*"))
