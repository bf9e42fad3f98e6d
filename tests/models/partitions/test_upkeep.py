"""Partitions are created and dropped, and nothing else changes."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine, select, text
from sqlalchemy.exc import IntegrityError

from oyer import migrations
from oyer.migrations import roles
from oyer.models import Judgement
from oyer.models.engine import reading
from oyer.models.partitions import catalog, create, drop
from oyer.models.partitions.catalog import Month, part_tables, partitions, unpartitioned
from oyer.models.partitions.create import create_partitions
from oyer.models.partitions.drop import complete_drop, drop_partitions, expired
from oyer.models.pruning.prune import Selection, prune
from tests.models.partitions.conftest import NOW, SIZE, record
from tests.support.record_counts import batches, rows, texts

LATER = datetime(2027, 3, 15, 12, tzinfo=UTC)
FILLED = ("rollouts", "judgements", "criteria", "attempts", "rewards")
"""Partitioned tables with rows of `record`."""

TABLES = [table.name for table in part_tables()]


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


def constraints(engine: Engine, table: str) -> set[str]:
    """Return the definitions of a table's keys and checks."""
    query = "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = '{}'::regclass"
    with engine.connect() as conn:
        return set(conn.exec_driver_sql(query.format(table)).scalars())


def test_each_partition_has_the_constraints_of_its_table(engine: Engine) -> None:
    before = {table: constraints(engine, table) for table in TABLES}
    assert any("FOREIGN KEY" in one for one in before["rewards"])
    create_partitions(engine, 1, now=NOW)
    for table in TABLES:
        assert constraints(engine, table) == before[table]
        for part in names(engine, table):
            assert constraints(engine, part) == before[table], part
    in_each_partition = {"a": NOW, "b": NOW + timedelta(days=31), "c": LATER}
    for batch_id, at in in_each_partition.items():
        record(engine, batch_id, at)
    with engine.begin() as conn:
        conn.exec_driver_sql("DELETE FROM submissions")
    for batch_id in in_each_partition:
        for held in (f"batches WHERE id = '{batch_id}'", f"texts WHERE body = '{batch_id} 0'"):
            with engine.begin() as conn, pytest.raises(IntegrityError, match="foreign key"):
                conn.exec_driver_sql(f"DELETE FROM {held}")


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


def test_a_table_that_a_migration_adds_is_partitioned_by_the_next_run(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = [table for table in part_tables() if table.name != "criteria"]
    with monkeypatch.context() as before:
        for module in (catalog, create):
            before.setattr(module, "part_tables", lambda: known)
        create_partitions(engine, 1, now=NOW)
    record(engine, "a", NOW)
    later = NOW + timedelta(days=62)
    record(engine, "b", later)
    assert "criteria_until_2026_06" in create_partitions(engine, 1, now=later)
    with engine.connect() as conn:
        assert unpartitioned(conn) == []
        # The first partition of `criteria` holds the rows of all batches so far.
        assert expired(conn, datetime(2026, 5, 1, tzinfo=UTC)) == []
        (group,) = expired(conn, datetime(2026, 6, 1, tzinfo=UTC))
    assert (group.batches, len(group.names)) == (2, 3 * len(known) + 1)
    list(drop_partitions(engine, datetime(2026, 6, 1, tzinfo=UTC)))
    assert {name for name, count in rows(engine).items() if count} == {"runs"}


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


def test_what_would_lose_rows_is_refused(engine: Engine) -> None:
    with engine.begin() as conn:
        conn.exec_driver_sql("CREATE MATERIALIZED VIEW best AS SELECT max(score) FROM judgements")
    with pytest.raises(ValueError, match="materialized view best: would see the rows so far only"):
        create_partitions(engine, 1, now=NOW)
    with engine.connect() as conn:
        assert sorted(unpartitioned(conn)) == sorted(TABLES)


def test_a_month_is_followed_by_the_next_also_over_new_year() -> None:
    assert Month(2026, 12).later() == Month(2027, 1)
    assert Month(2026, 11).later(14) == Month(2028, 1)
    assert str(Month.of(datetime(2026, 3, 1, tzinfo=UTC))) == "2026_03"
