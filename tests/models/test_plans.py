"""Every read of the product, and of users, goes by an index on a record with many batches."""

from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import Connection, Engine, text

from oyer.models import queries
from oyer.models.engine import open_engine, reading
from oyer.models.reports.criteria import criteria_report
from oyer.models.requests import attempts_of
from tests.support.query_plans import selects_of, table_scans
from tests.test_record_docs import fill

Read = Callable[[Connection, str], object]

READS: dict[str, Read] = {
    "batch": queries.batch,
    "ids_starting": lambda conn, batch: queries.ids_starting(conn, batch[:7], 5),
    "list_batches": lambda conn, _: queries.list_batches(conn),
    "list_batches of a run": lambda conn, _: queries.list_batches(conn, run="first"),
    "list_batches by status": lambda conn, _: queries.list_batches(conn, status="submitted"),
    "missing_from_record": lambda conn, batch: queries.missing_from_record(conn, [batch, "b"]),
    "submissions_of": queries.submissions_of,
    "scored_by_request": lambda conn, _: queries.scored_by_request(conn, ["a" * 64, "b" * 64]),
    "scored_by_request of a run": lambda conn, _: queries.scored_by_request(
        conn, ["a" * 64, "b" * 64], "first"
    ),
    "judgements_of a chunk": lambda conn, batch: queries.judgements_of(conn, batch, range(8)),
    "judgements_of a batch": lambda conn, batch: queries.judgements_of(conn, batch),
    "rewards_of": queries.rewards_of,
    "group_ids_of": queries.group_ids_of,
    "usage_of": queries.usage_of,
    "counts_of": queries.counts_of,
    "work_of": queries.work_of,
    "first_errors_of": queries.first_errors_of,
    "cost_of_run": lambda conn, _: queries.cost_of_run(conn, "first"),
    "criteria_report": lambda conn, _: criteria_report(conn, "first", batches=4, criteria=10),
    "attempts_of": lambda conn, batch: attempts_of(
        conn, queries.judgements_of(conn, batch, [0])[0]
    ),
}
"""Functions that workers and the command line call."""

CONDITIONS = {
    "a batch": "batch_id = 'BATCH'",
    "the scored of a step": "run = 'first' AND step = 3 AND status = 'scored'",
    "a failure of all runs": "status = 'timeout'",
}
"""Conditions on `judge_history` that users write."""

MANY = {
    "a group": "group_id = 'q1'",
    "a step of all runs": "step = 3",
    "the scored of a run": "run = 'first' AND status = 'scored'",
    "a judge of a run": "run = 'first' AND judge = 'quality'",
}
"""Conditions that match much of the test's record; to read a table for it is right on PostgreSQL."""

FIRST_BY = {
    "the scored of a step": "batches",
    "the scored of a run": "batches",
    "a step of all runs": "batches",
}
"""What SQLite must look up before the judgements, so that it reads the judgements of few batches."""


@pytest.fixture
def filled(store_url: str) -> Iterator[tuple[Engine, str]]:
    """A record of a hundred batches, and the id of one of the run `first`."""
    engine = open_engine(store_url)
    yield engine, fill(engine)
    engine.dispose()


def about(batch_id: str, read: Read) -> Callable[[Connection], object]:
    return lambda conn: read(conn, batch_id)


def test_no_read_of_the_product_reads_a_whole_table(filled: tuple[Engine, str]) -> None:
    engine, batch_id = filled
    for name, read in READS.items():
        with reading(engine) as conn:
            selects = selects_of(engine, about(batch_id, read))
            assert selects, name
            for statement, values in selects:
                assert table_scans(conn, statement, values) == [], name


def test_no_condition_on_the_history_reads_a_whole_table(filled: tuple[Engine, str]) -> None:
    engine, batch_id = filled
    conditions = CONDITIONS | (MANY if engine.dialect.name == "sqlite" else {})
    for name, condition in conditions.items():
        query = f"SELECT * FROM judge_history WHERE {condition.replace('BATCH', batch_id)}"
        with reading(engine) as conn:
            assert table_scans(conn, query) == [], name


def test_sqlite_reads_the_newest_judgements_in_the_order_of_the_key(sqlite_planner: Engine) -> None:
    query = "SELECT * FROM judge_history ORDER BY submitted_at DESC LIMIT 5"
    with reading(sqlite_planner) as conn:
        steps = [row[-1] for row in conn.exec_driver_sql(f"EXPLAIN QUERY PLAN {query}")]
    assert not any("TEMP B-TREE" in step for step in steps), steps


def test_sqlite_looks_up_the_batches_of_a_run_or_step_first(sqlite_planner: Engine) -> None:
    for name, table in FIRST_BY.items():
        condition = (CONDITIONS | MANY)[name]
        query = f"EXPLAIN QUERY PLAN SELECT * FROM judge_history WHERE {condition}"
        with reading(sqlite_planner) as conn:
            steps = [row[-1].split()[1] for row in conn.exec_driver_sql(query)]
        assert steps.index(table) < steps.index("j"), (name, steps)


@pytest.fixture
def sqlite_planner(_migrated_sqlite: str) -> Iterator[Engine]:
    """An empty record; SQLite plans by its fixed statistics, whatever the record holds."""
    engine = open_engine(_migrated_sqlite)
    yield engine
    engine.dispose()


@pytest.mark.parametrize(
    ("condition", "index"),
    [
        ("run_id = 1 AND step > 3", "ix_batches_run_id_step"),
        ("step = 3", "ix_batches_step"),
        ("status = 'failed' ORDER BY submitted_at DESC LIMIT 50", "ix_batches_status_submitted_at"),
        ("run_id = 1 ORDER BY submitted_at DESC LIMIT 50", "ix_batches_run_id_submitted_at"),
    ],
)
def test_batches_are_found_by_an_index(store_url: str, condition: str, index: str) -> None:
    engine = open_engine(store_url)
    explain = "EXPLAIN" if engine.dialect.name == "postgresql" else "EXPLAIN QUERY PLAN"
    with engine.begin() as conn:
        if engine.dialect.name == "postgresql":
            conn.execute(text(BATCHES_ON_POSTGRES))
            conn.execute(text("ANALYZE batches"))
        plan = conn.execute(text(f"{explain} SELECT * FROM batches WHERE {condition}")).all()
    engine.dispose()
    assert index in str(plan), plan


BATCHES_ON_POSTGRES = """
WITH made AS (
    INSERT INTO runs (name, created_at) SELECT 'run ' || i, now() FROM generate_series(1, 20) AS i
    RETURNING id
)
INSERT INTO batches (id, run_id, step, size, plan, status, submissions, oyer_version, submitted_at)
SELECT gen_random_uuid()::text, id, step, 8, '{}', CASE WHEN step % 500 = 0 THEN 'failed' ELSE 'finished' END,
    1, '0', now() - step * interval '1 minute'
FROM made, generate_series(1, 500) AS step
"""
"""Ten thousand batches of 20 runs: enough that an index is cheaper than the table."""
