"""The record is opened by its URL, and says what is wrong with one."""

import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import Engine, select, text
from sqlalchemy.exc import OperationalError

from oyer import migrations
from oyer.models import engine as store
from oyer.models.batch import Batch
from oyer.models.engine import has_database, open_engine, reading, redacted_url
from oyer.models.partitions.catalog import partitions
from oyer.models.partitions.create import create_partitions
from oyer.models.writes import ensure_run_and_batch
from tests.support.record_rows import START, make_batch


@pytest.mark.parametrize(
    ("url", "fix"),
    [
        ("mysql://host/db", "use sqlite or postgresql"),
        ("oyer.db", "write `sqlite:///file.db`"),
        ("sqlite://", "name a file"),
        ("sqlite:///:memory:", "name a file"),
    ],
)
def test_a_url_that_cannot_be_used_says_the_fix(url: str, fix: str) -> None:
    with pytest.raises(ValueError, match=fix):
        open_engine(url)


def test_a_url_that_cannot_be_read_is_not_repeated_with_its_password() -> None:
    with pytest.raises(ValueError, match=r"store\.url") as caught:
        open_engine("postgresql//me:hunter2@host/db")
    assert "hunter2" not in str(caught.value)
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:hunter2@host/db",
        "postgresql+psycopg2://me:hunter2@host/db?sslmode=require",
        "postgresql://host/db?user=me&password=hunter2&sslpassword=hunter2",
    ],
)
def test_no_password_is_left_in_a_redacted_url(url: str) -> None:
    redacted = redacted_url(url)
    assert "hunter2" not in redacted
    assert "host/db" in redacted


def test_postgresql_is_reached_through_psycopg_3(postgres_url: str) -> None:
    engine = open_engine(postgres_url)
    assert engine.dialect.driver == "psycopg"
    with reading(engine) as conn:
        assert conn.scalar(text("SELECT 1")) == 1
    engine.dispose()


def test_the_folder_of_a_sqlite_file_is_created(tmp_path: Path) -> None:
    engine = open_engine(f"sqlite:///{tmp_path}/new/folder/oyer.db")
    with engine.begin() as conn:
        assert conn.scalar(text("PRAGMA journal_mode")) == "wal"
        assert conn.scalar(text("PRAGMA synchronous")) == 1
        assert conn.scalar(text("PRAGMA foreign_keys")) == 1
        assert conn.scalar(text("PRAGMA busy_timeout")) == 30_000
    engine.dispose()
    assert (tmp_path / "new/folder/oyer.db").exists()


def test_a_folder_that_cannot_be_created_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=f"{tmp_path}/file"):
        open_engine(f"sqlite:///{tmp_path}/file/oyer.db")


@pytest.fixture
def sqlite_engine(sqlite_url: str) -> Engine:
    engine = open_engine(sqlite_url)
    with engine.begin() as conn:
        conn.execute(text("CREATE TABLE counter (n INTEGER)"))
        conn.execute(text("INSERT INTO counter VALUES (0)"))
    return engine


def test_a_reader_sees_the_state_before_a_writer_that_has_not_committed(
    sqlite_engine: Engine,
) -> None:
    count = text("SELECT n FROM counter")
    with sqlite_engine.begin() as writer:
        writer.execute(text("UPDATE counter SET n = 1"))
        with reading(sqlite_engine) as reader:
            assert reader.scalar(count) == 0
    with reading(sqlite_engine) as reader:
        assert reader.scalar(count) == 1
    sqlite_engine.dispose()


def test_writers_that_read_first_queue_and_lose_no_update(sqlite_engine: Engine) -> None:
    def add(times: int) -> None:
        for _ in range(times):
            with sqlite_engine.begin() as conn:
                n = conn.scalar(text("SELECT n FROM counter"))
                conn.execute(text("UPDATE counter SET n = :n"), {"n": n + 1})

    threads = [threading.Thread(target=add, args=(25,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with reading(sqlite_engine) as conn:
        assert conn.scalar(text("SELECT n FROM counter")) == 100
    sqlite_engine.dispose()


def test_a_failed_transaction_leaves_nothing_behind(sqlite_engine: Engine) -> None:
    def fail_halfway() -> None:
        with sqlite_engine.begin() as conn:
            conn.execute(text("CREATE TABLE half (n INTEGER)"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_halfway()
    with reading(sqlite_engine) as conn:
        tables = conn.scalars(text("SELECT name FROM sqlite_master WHERE type = 'table'")).all()
    assert tables == ["counter"]
    sqlite_engine.dispose()


def test_a_writer_that_waited_too_long_raises_an_operational_error(
    sqlite_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "LOCK_TIMEOUT_S", 0)
    with (
        sqlite_engine.begin(),
        pytest.raises(OperationalError, match="locked"),
        sqlite_engine.begin(),
    ):
        raise AssertionError("two writers at once")
    with sqlite_engine.begin() as conn:
        assert conn.scalar(text("SELECT n FROM counter")) == 0


def test_greenlets_go_on_while_another_waits_for_the_write_lock(sqlite_url: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _GREENLETS, sqlite_url], capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["ticked", "written"], done.stderr


_GREENLETS = """
from gevent import monkey; monkey.patch_all()
import sqlite3, sys
import gevent
from sqlalchemy import text
from oyer.models.engine import open_engine

engine = open_engine(sys.argv[1])
other = sqlite3.connect(sys.argv[1].removeprefix("sqlite:///"), isolation_level=None)
other.execute("PRAGMA journal_mode = WAL")
other.execute("BEGIN IMMEDIATE")

def write():
    with engine.begin() as conn:
        conn.execute(text("CREATE TABLE counter (n INTEGER)"))
    print("written")

def tick():
    # Would never be reached if the writer's wait stopped the hub: it alone ends the lock.
    print("ticked")
    other.execute("COMMIT")

writer = gevent.spawn(write)
gevent.sleep(0.05)
gevent.joinall([writer, gevent.spawn(tick)], raise_error=True, timeout=20)
engine.dispose()
"""


def test_the_home_folder_is_where_a_tilde_points(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    engine = open_engine("sqlite:///~/records/oyer.db")
    with engine.begin():
        pass
    engine.dispose()
    assert (tmp_path / "records" / "oyer.db").exists()
    assert not (tmp_path / "~").exists()
    assert has_database("sqlite:///~/records/oyer.db")


def test_postgres_is_postgresql() -> None:
    assert redacted_url("postgres://u:pw@h/d") == "postgresql+psycopg://u:***@h/d"


def test_times_are_read_under_any_style_and_time_zone_of_the_database(postgres_url: str) -> None:
    migrations.upgrade(postgres_url)
    admin = open_engine(postgres_url)
    with admin.begin() as conn:
        name = conn.scalar(text("SELECT current_database()"))
        for setting in ("DateStyle TO 'SQL, DMY'", "TimeZone TO 'Asia/Kolkata'"):
            conn.exec_driver_sql(f'ALTER DATABASE "{name}" SET {setting}')
    admin.dispose()
    engine = open_engine(postgres_url)
    batch = make_batch()
    with engine.begin() as conn:
        ensure_run_and_batch(conn, batch)
    create_partitions(engine, 2, now=START)
    with reading(engine) as conn:
        assert conn.scalar(select(Batch.submitted_at)) == START
        starts = {one.start for one in partitions(conn) if one.start is not None}
    engine.dispose()
    assert starts == {datetime(2026, 5, 1, tzinfo=UTC)}
