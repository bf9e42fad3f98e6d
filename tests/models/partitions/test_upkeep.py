"""Partitions are created and dropped under load, and nothing else changes."""

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine, func, select, text
from sqlalchemy.exc import SQLAlchemyError

from oyer import migrations
from oyer.migrations import roles
from oyer.models import Base, Batch, Judgement, Text
from oyer.models.engine import open_engine, reading
from oyer.models.partitions import catalog, drop
from oyer.models.partitions.catalog import Month, part_tables, partitions, unpartitioned
from oyer.models.partitions.create import create_partitions
from oyer.models.partitions.drop import complete_drop, drop_partitions, expired
from oyer.models.pruning.prune import Selection, prune
from oyer.models.queries import usage_of
from oyer.models.writes import (
    add_to_totals,
    ensure_run_and_batch,
    finish_batch,
    record_chunk,
    record_rewards,
    record_submissions,
)
from oyer.tasks.worker.storage_retry import retry_storage
from tests.support.record_rows import (
    make_attempt,
    make_batch,
    make_judgement,
    make_reward,
    make_rollout,
    make_submission,
)

NOW = datetime(2026, 3, 15, 12, tzinfo=UTC)
LATER = datetime(2027, 3, 15, 12, tzinfo=UTC)
SIZE = 4
FILLED = ("rollouts", "judgements", "criteria", "attempts", "rewards")
"""Partitioned tables with rows of `record`."""

TABLES = [table.name for table in part_tables()]


@pytest.fixture
def engine(postgres_url: str) -> Iterator[Engine]:
    migrations.upgrade(postgres_url)
    opened = open_engine(postgres_url)
    yield opened
    opened.dispose()


def record(
    engine: Engine, batch_id: str, at: datetime = NOW, *, run: str = "r", ended: bool = True
) -> None:
    """Record a batch whose prompts other batches have as well, and whose other texts are its own."""
    turn = {"role": "user", "content": f"again {batch_id}"}
    criterion = {"position": 0, "name": "units", "weight": 1.0, "required": False}
    with engine.begin() as conn:
        batch = make_batch(id=batch_id, run=run, size=SIZE, submitted_at=at)
        key = ensure_run_and_batch(conn, batch)
        record_submissions(conn, batch_id, [make_submission(batch_id)])
        record_chunk(
            conn,
            key,
            rollouts=[make_rollout(i, response=f"{batch_id} {i}") for i in range(SIZE)],
            judgements=[make_judgement(i, criteria=[criterion]) for i in range(SIZE)],
            attempts=[
                make_attempt(i, reply=f"reply {batch_id}", turns={"kept": 1, "added": [turn]})
                for i in range(SIZE)
            ],
        )
    with engine.begin() as conn:
        usage_of(conn, batch_id)
        record_rewards(conn, key, [make_reward(i) for i in range(SIZE)])
        if ended:
            add_to_totals(conn, batch_id, {"reward": (SIZE, 6.0, 9.0)})
            finish_batch(conn, batch_id, status="finished", finished_at=at, counts={}, usage={})


def rows(engine: Engine) -> dict[str, int]:
    with reading(engine) as conn:
        return {
            name: conn.scalar(select(func.count()).select_from(table)) or 0
            for name, table in Base.metadata.tables.items()
        }


def texts(engine: Engine) -> set[str]:
    with reading(engine) as conn:
        return set(conn.scalars(select(Text.body)))


def batches(engine: Engine) -> list[str]:
    with reading(engine) as conn:
        return sorted(conn.scalars(select(Batch.id)))


def names(engine: Engine, table: str = "judgements") -> list[str]:
    with engine.connect() as conn:
        return [one.name for one in partitions(conn) if one.table == table]


def test_a_record_keeps_its_rows_views_grants_and_schema(engine: Engine, postgres_url: str) -> None:
    record(engine, "a")
    roles_made = ("oyer_part_w", "oyer_part_a")
    with engine.begin() as conn:
        for role in roles_made:
            conn.exec_driver_sql(f"CREATE ROLE {role} LOGIN")
        conn.exec_driver_sql(
            "CREATE VIEW mine AS SELECT count(*) AS n FROM judgements WHERE judge LIKE 'qual%%'"
        )
    roles.apply(postgres_url, roles_made[:1], roles_made[1:])
    before, order = rows(engine), "SELECT * FROM judgements ORDER BY rollout_index"
    with engine.connect() as conn:
        columns = list(conn.exec_driver_sql(order).keys())
    try:
        create_partitions(engine, 2, now=NOW)
        record(engine, "b")
        with engine.connect() as conn:
            assert unpartitioned(conn) == []
            assert list(conn.exec_driver_sql(order).keys()) == columns
            for view, count in (("mine", 2 * SIZE), ("judge_history", 1), ("criterion_history", 1)):
                found = conn.exec_driver_sql(f"SELECT * FROM {view}").all()
                assert found[0][0] == count if view == "mine" else len(found) == 2 * SIZE
            for role, privilege, held in (
                (roles_made[0], "INSERT", True),
                (roles_made[0], "DELETE", False),
                (roles_made[1], "SELECT", True),
                (roles_made[1], "INSERT", False),
            ):
                query = text("SELECT has_table_privilege(:role, 'judgements', :privilege)")
                assert conn.scalar(query, {"role": role, "privilege": privilege}) == held
    finally:
        with engine.begin() as conn:
            conn.exec_driver_sql(f"DROP OWNED BY {', '.join(roles_made)}")
            conn.exec_driver_sql(f"DROP ROLE {', '.join(roles_made)}")
    parts = dict.fromkeys(("batches", "texts", "submissions", *TABLES))
    assert {name for name, count in rows(engine).items() if count != before[name]} <= parts.keys()
    migrations.check(postgres_url)
    with engine.begin() as conn:
        conn.exec_driver_sql("DROP VIEW mine")
    migrations.downgrade(postgres_url, "base")
    migrations.upgrade(postgres_url)
    with engine.connect() as conn:
        assert sorted(unpartitioned(conn)) == sorted(TABLES)


def test_a_time_without_a_partition_is_taken_and_gets_one_later(engine: Engine) -> None:
    create_partitions(engine, 1, now=NOW)
    assert names(engine) == ["judgements_until_2026_04", "judgements_2026_04", "judgements_default"]
    record(engine, "next-year", LATER)
    record(engine, "long-ago", NOW - timedelta(days=5000))
    made = create_partitions(engine, 1, now=LATER)
    assert "judgements_2027_03" in made
    assert create_partitions(engine, 1, now=LATER) == []
    with engine.connect() as conn:
        for table in TABLES:
            counts = {
                name: conn.exec_driver_sql(f"SELECT count(*) FROM {table}_{name}").scalar_one()
                for name in ("2027_03", "default", "until_2026_04")
            }
            expected = SIZE if table in FILLED else 0
            assert counts == {"2027_03": expected, "default": 0, "until_2026_04": expected}, table
    assert batches(engine) == ["long-ago", "next-year"]


def test_rows_of_a_host_whose_clock_is_ahead_are_in_the_first_partition(engine: Engine) -> None:
    record(engine, "ahead", LATER)
    made = create_partitions(engine, 1, now=NOW)
    assert {name for name in made if name.startswith("judgements")} == {"judgements_until_2027_04"}
    assert batches(engine) == ["ahead"]


def test_a_dropped_month_leaves_the_record_as_if_it_had_never_been(engine: Engine) -> None:
    create_partitions(engine, 3, now=NOW)
    record(engine, "kept", NOW + timedelta(days=31), run="kept")
    before, words = rows(engine), texts(engine)
    record(engine, "a", NOW)
    record(engine, "b", NOW + timedelta(days=62))
    dropped = [name for name in drop_partitions(engine, datetime(2026, 4, 1, tzinfo=UTC)) if name]
    assert sorted(dropped) == sorted(f"{table}_until_2026_04" for table in TABLES)
    assert batches(engine) == ["b", "kept"]
    assert not [word for word in texts(engine) if word.startswith(("a ", "reply a"))]
    # May is kept, as April's run is: its batches are not old enough yet.
    list(drop_partitions(engine, datetime(2026, 6, 1, tzinfo=UTC), ["kept"]))
    assert (batches(engine), rows(engine)) == (["kept"], before | {"runs": 2})
    assert texts(engine) == words
    record(engine, "late", NOW)  # in the default partition
    assert batches(engine) == ["kept", "late"]


def test_a_month_with_an_unfinished_batch_is_kept(engine: Engine) -> None:
    create_partitions(engine, 1, now=NOW)
    record(engine, "open", NOW, ended=False)
    before = rows(engine)
    with engine.connect() as conn:
        (group,) = expired(conn, datetime(2026, 4, 1, tzinfo=UTC))
    assert (group.droppable, group.not_ended, group.batches) == (False, 1, 1)
    assert list(drop_partitions(engine, datetime(2026, 4, 1, tzinfo=UTC))) == []
    assert rows(engine) == before


def test_an_interrupted_drop_is_completed_and_foreign_tables_stay(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drop, "SLICE_ROWS", 3)
    create_partitions(engine, 1, now=NOW)
    record(engine, "a", NOW)
    with engine.begin() as conn:
        conn.exec_driver_sql("CREATE TABLE judgements_2020_01 AS SELECT 1 AS mine")
    steps = drop_partitions(engine, datetime(2026, 4, 1, tzinfo=UTC))
    assert next(steps) == ""
    steps.close()  # type: ignore[attr-defined]
    assert rows(engine)["judgements"] == 0
    assert any(word.startswith("a ") for word in texts(engine))
    dropped = [name for name in complete_drop(engine) if name]
    assert len(dropped) == len(TABLES)
    left = rows(engine)
    assert {name for name, count in left.items() if count} == {"runs"}
    with engine.connect() as conn:
        assert conn.exec_driver_sql("SELECT mine FROM judgements_2020_01").scalar_one() == 1


def test_rows_are_pruned_from_partitions_as_from_a_table(engine: Engine) -> None:
    record(engine, "old", NOW, run="gone")
    create_partitions(engine, 2, now=NOW)
    record(engine, "new", NOW + timedelta(days=40), run="gone")
    record(engine, "kept", NOW + timedelta(days=40), run="kept")
    list(prune(engine, Selection(runs=["gone"]), texts_only=False))
    assert batches(engine) == ["kept"]
    assert rows(engine)["judgements"] == SIZE
    list(prune(engine, Selection(), texts_only=True))
    with reading(engine) as conn:
        assert set(conn.scalars(select(Judgement.reply))) == {None}


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


def test_what_would_lose_rows_is_refused(engine: Engine) -> None:
    with engine.begin() as conn:
        conn.exec_driver_sql("CREATE MATERIALIZED VIEW best AS SELECT max(score) FROM judgements")
    with pytest.raises(ValueError, match="materialized view best: would see the rows so far only"):
        create_partitions(engine, 1, now=NOW)
    with engine.connect() as conn:
        assert sorted(unpartitioned(conn)) == sorted(TABLES)


def test_a_table_that_is_in_use_for_long_is_not_waited_for_without_end(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalog, "LOCK_TIMEOUT_S", 1)
    monkeypatch.setattr(catalog, "LOCK_TRIES", 1)
    with engine.connect() as conn:
        conn.exec_driver_sql("SELECT * FROM judgements")
        with pytest.raises(TimeoutError, match="pg_stat_activity"):
            create_partitions(engine, 1, now=NOW)


def test_a_month_is_followed_by_the_next_also_over_new_year() -> None:
    assert Month(2026, 12).later() == Month(2027, 1)
    assert Month(2026, 11).later(14) == Month(2028, 1)
    assert str(Month.of(datetime(2026, 3, 1, tzinfo=UTC))) == "2026_03"
