"""Workers and queries go on while the record is upgraded, in whatever order they use its tables."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Engine

from oyer import migrations
from oyer.models.engine import open_engine
from oyer.models.partitions import locks
from tests.support.waiting import wait_until

WAITING = (
    "SELECT count(*) FROM pg_locks JOIN pg_database ON pg_database.oid = database"
    " WHERE NOT granted AND datname = current_database()"
)
"""Counts the transactions of this database that wait for a table."""

NEW_RUN = "INSERT INTO runs (name, created_at) VALUES ('r', now())"


@pytest.fixture
def engine(postgres_url: str) -> Iterator[Engine]:
    """A record of an earlier release."""
    migrations.upgrade(postgres_url, "0006")
    opened = open_engine(postgres_url)
    yield opened
    opened.dispose()


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ("SELECT count(*) FROM batches", NEW_RUN),
        ("SELECT count(*) FROM attempts", "SELECT count(*) FROM batches"),
        ("SELECT count(*) FROM judgements", "SELECT count(*) FROM judge_history"),
    ],
    ids=["submission", "ending", "page"],
)
def test_a_transaction_that_is_open_when_an_upgrade_begins_ends_and_so_does_the_upgrade(
    engine: Engine, postgres_url: str, first: str, then: str
) -> None:
    with ThreadPoolExecutor(1) as pool:
        with engine.begin() as conn, engine.connect() as watching:
            conn.exec_driver_sql(first)
            upgraded = pool.submit(migrations.upgrade, postgres_url)
            wait_until(lambda: watching.exec_driver_sql(WAITING).scalar_one() == 1, "waiting")
            conn.exec_driver_sql(then)
        upgraded.result(120)
    assert migrations.current(postgres_url) == migrations.head()


def test_an_upgrade_of_a_record_in_use_for_long_gives_up_and_leaves_it_as_it_was(
    engine: Engine, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "LOCK_TRIES", 1)
    with engine.connect() as conn:
        conn.exec_driver_sql("SELECT * FROM judgements")
        with pytest.raises(TimeoutError, match="pg_stat_activity"):
            migrations.upgrade(postgres_url)
    assert migrations.current(postgres_url) == "0006"


def test_an_upgrade_of_an_up_to_date_record_waits_for_no_query(
    engine: Engine, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    migrations.upgrade(postgres_url)
    monkeypatch.setattr(locks, "LOCK_TRIES", 1)
    with engine.connect() as conn:
        conn.exec_driver_sql("SELECT * FROM judgements")
        migrations.upgrade(postgres_url)
