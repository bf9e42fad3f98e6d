"""A SQLite file that is copied holds every row: after the last process ended, and by a backup."""

import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

from oyer import migrations
from oyer.models.engine import checkpoint, copy_sqlite, open_engine
from oyer.models.writes import ensure_run_and_batch
from tests.support.paths import ROOT
from tests.support.record_rows import make_batch

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
