"""Workers and queries go on while tables are made partitioned and months are dropped."""

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine, event
from sqlalchemy.exc import SQLAlchemyError

from oyer.models.engine import SCHEMA_LOCK_KEY, open_engine, reading
from oyer.models.partitions import locks
from oyer.models.partitions.create import create_partitions
from oyer.models.partitions.drop import drop_partitions
from oyer.tasks.worker.storage_retry import retry_storage
from tests.models.partitions.conftest import NOW, SIZE, record
from tests.support.record_counts import batches, rows
from tests.support.waiting import wait_until


def test_workers_write_while_partitions_are_created_and_dropped(engine: Engine) -> None:
    """Each batch that a writer has recorded is whole, whatever happened meanwhile."""
    record(engine, "old", NOW - timedelta(days=60), run="gone")
    done, errors = threading.Event(), list[BaseException]()
    written: list[str] = []
    started = threading.Barrier(3)

    def write(writer: int) -> None:
        started.wait(60)
        number = 0
        while not done.is_set() or number < 3:
            batch_id = f"{writer}-{number}"
            try:
                at = NOW + timedelta(days=number % 60 + 20)
                retry_storage(record, engine, batch_id, at, run="kept")  # as workers do
                with reading(engine) as conn:
                    found = conn.exec_driver_sql(
                        f"SELECT count(*) FROM judge_history WHERE batch_id = '{batch_id}'"
                    ).scalar_one()
                assert found == SIZE
            except (SQLAlchemyError, AssertionError) as error:
                errors.append(error)
                return
            written.append(batch_id)
            number += 1

    writers = [threading.Thread(target=write, args=(number,)) for number in range(2)]
    for writer in writers:
        writer.start()
    started.wait(60)
    create_partitions(engine, 1, now=NOW)
    create_partitions(engine, 3, now=NOW)
    list(drop_partitions(engine, datetime(2026, 4, 1, tzinfo=UTC), ["kept"]))
    done.set()
    for writer in writers:
        writer.join(120)
    assert errors == []
    assert rows(engine)["rollouts"] == SIZE * len(batches(engine))
    assert set(written) <= set(batches(engine))


@pytest.mark.parametrize(
    "use", ["SELECT * FROM judgements", f"SELECT pg_advisory_xact_lock({SCHEMA_LOCK_KEY})"]
)
def test_a_record_that_is_in_use_for_long_is_not_waited_for_without_end(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, use: str
) -> None:
    """In use by a query, or by a migration."""
    monkeypatch.setattr(locks, "LOCK_TRIES", 1)
    with engine.connect() as conn:
        conn.exec_driver_sql(use)
        with pytest.raises(TimeoutError, match="pg_stat_activity"):
            create_partitions(engine, 1, now=NOW)


def test_a_query_of_a_view_that_begins_during_the_conversion_waits_for_it(engine: Engine) -> None:
    record(engine, "old")
    query = "SELECT count(*) FROM judge_history"
    waiting = (
        "SELECT count(*) FROM pg_locks JOIN pg_database ON pg_database.oid = database"
        " WHERE NOT granted AND datname = current_database()"
    )
    asked: list[Future[object]] = []
    watched = open_engine(engine.url.render_as_string(hide_password=False))

    def ask(_conn: object, _cursor: object, statement: str, *_: object) -> None:
        if statement.startswith("ALTER INDEX") and not asked:
            asked.append(pool.submit(lambda: _scalar(engine, query)))
            wait_until(lambda: _scalar(engine, waiting) == 1, "waiting")

    event.listen(watched, "before_cursor_execute", ask)
    try:
        with ThreadPoolExecutor(1) as pool:
            assert create_partitions(watched, 1, NOW)
            assert [found.result(60) for found in asked] == [SIZE]
    finally:
        watched.dispose()


def _scalar(engine: Engine, query: str) -> object:
    with engine.connect() as conn:
        return conn.exec_driver_sql(query).scalar_one()


def test_a_query_is_not_cancelled_while_the_tables_are_locked(engine: Engine) -> None:
    waiting = (
        "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'judgements'::regclass"
    )
    with ThreadPoolExecutor(1) as pool, engine.connect() as conn:
        conn.exec_driver_sql("SELECT * FROM judgements")
        made = pool.submit(create_partitions, engine, 1, NOW)
        wait_until(lambda: conn.exec_driver_sql(waiting).scalar_one() == 1, "locking")
        # Longer than `deadlock_timeout`, after which only the later waiter, a query, is cancelled.
        conn.exec_driver_sql("SELECT pg_sleep(1.2)")
        assert conn.exec_driver_sql("SELECT count(*) FROM batches").scalar_one() == 0
        conn.rollback()
        assert made.result()


def test_a_query_is_not_cancelled_while_one_lock_after_the_other_is_waited_for(
    engine: Engine,
) -> None:
    waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = '{}'::regclass"
    with (
        ThreadPoolExecutor(2) as pool,
        engine.connect() as watching,
        engine.connect() as first,
        engine.connect() as second,
        engine.connect() as third,
    ):
        held = {"rollouts": first, "judgements": second, "attempts": third}
        for table, conn in held.items():
            conn.exec_driver_sql(f"SELECT * FROM {table}")
        made = pool.submit(create_partitions, engine, 1, NOW)
        wait_until(
            lambda: watching.exec_driver_sql(waiting.format("rollouts")).scalar_one() == 1,
            "locking",
        )
        query = "SELECT count(*) FROM batches"
        asked = pool.submit(lambda: third.exec_driver_sql(query).scalar_one())
        for conn in (first, second):
            # Almost as long as a lock is waited for; all waits together exceed `deadlock_timeout`.
            watching.exec_driver_sql("SELECT pg_sleep(0.4)")
            conn.rollback()
        assert asked.result(60) == 0
        third.rollback()
        assert made.result(60)
