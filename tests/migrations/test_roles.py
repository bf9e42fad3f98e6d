"""Workers can add to the record and analysts read it; neither can do more."""

from collections.abc import Callable, Iterator
from datetime import timedelta

import psycopg
import pytest
from psycopg import sql
from psycopg.errors import Error, InsufficientPrivilege
from sqlalchemy import make_url, text

from oyer import migrations
from oyer.migrations import roles
from oyer.models import Base
from oyer.models.engine import open_engine, reading
from oyer.models.partitions.create import create_partitions
from oyer.models.queries import usage_of
from oyer.models.reports.criteria import criteria_report
from oyer.models.writes import (
    ensure_run_and_batch,
    finish_batch,
    record_chunk,
    record_rewards,
    record_rubrics,
    record_submissions,
    reopen_batch,
)
from oyer.tasks.monitoring.readiness import record_problem_at
from tests.support.record_rows import (
    START,
    make_attempt,
    make_batch,
    make_judgement,
    make_reward,
    make_rollout,
    make_submission,
)

WORKER, ANALYST = "Oyer-Worker", 'oyer"analyst'
"""With what has to be quoted."""

Login = Callable[[str], str]


@pytest.fixture
def login(postgres_url: str) -> Iterator[Login]:
    """Give the URL of a role on a record whose roles were granted, twice."""
    migrations.upgrade(postgres_url)
    named = [sql.Identifier(role) for role in (WORKER, ANALYST)]
    with psycopg.connect(postgres_url, autocommit=True) as admin:
        for name in named:
            admin.execute(sql.SQL("CREATE ROLE {} LOGIN").format(name))
        first = roles.apply(postgres_url, [WORKER], [ANALYST])
        assert roles.apply(postgres_url, [WORKER], [ANALYST]) == first
        yield (
            lambda role: (
                make_url(postgres_url).set(username=role).render_as_string(hide_password=False)
            )
        )
        for name in named:
            admin.execute(sql.SQL("DROP OWNED BY {}").format(name))
            admin.execute(sql.SQL("DROP ROLE {}").format(name))


def refused(url: str, statement: str, reason: type[Error] = InsufficientPrivilege) -> None:
    with psycopg.connect(url) as conn, pytest.raises(reason):
        conn.execute(statement.encode())


def test_a_worker_can_record_a_batch_from_its_begin_to_its_end(login: Login) -> None:
    engine = open_engine(login(WORKER))
    with engine.begin() as conn:
        for score in (None, 7.0):
            key = ensure_run_and_batch(conn, make_batch(id="b"))
            record_submissions(conn, "b", [make_submission("b")])
            record_rubrics(conn, [{"hash": "ab" * 32, "name": "n", "text": "{response}"}])
            record_chunk(
                conn,
                key,
                rollouts=[make_rollout()],
                judgements=[make_judgement(status="scored" if score else "timeout", score=score)],
                attempts=[make_attempt(id="a")],
            )
        record_rewards(conn, key, [make_reward()])
        usage = usage_of(conn, "b")
        for status in ("failed", "finished"):
            assert finish_batch(conn, "b", status=status, finished_at=START, counts={}, usage=usage)
            reopen_batch(conn, "b")
        assert conn.scalar(text("SELECT score FROM judge_history")) == 7.0
    engine.dispose()
    assert migrations.current(login(WORKER)) == migrations.head()


@pytest.mark.parametrize(
    "statement",
    [
        "DROP TABLE rewards",
        "ALTER TABLE rewards ADD COLUMN extra text",
        "CREATE TABLE extra (id int)",
        "CREATE INDEX extra ON rewards (reward)",
        "TRUNCATE rewards",
        "DELETE FROM judgements",
        "UPDATE rewards SET reward = 1",
        "UPDATE attempts SET cost_usd = 0",
        "UPDATE alembic_version SET version_num = '0001'",
        "CREATE ROLE another",
    ],
)
def test_a_worker_can_change_neither_schema_nor_recorded_rows(login: Login, statement: str) -> None:
    refused(login(WORKER), statement)


def test_an_analyst_reads_every_table_and_the_view(login: Login) -> None:
    with psycopg.connect(login(ANALYST)) as conn:
        for name in [*Base.metadata.tables, *roles.VIEWS]:
            assert conn.execute(f"SELECT * FROM {name}".encode()).fetchall() == []


def test_page_and_metrics_are_ready_with_the_role_of_an_analyst(login: Login) -> None:
    assert record_problem_at(login(ANALYST)) is None


def test_an_analyst_reads_the_criteria_report(login: Login) -> None:
    worker, engine = open_engine(login(WORKER)), open_engine(login(ANALYST))
    with worker.begin() as conn:
        ensure_run_and_batch(conn, make_batch(run="r"))
    with reading(engine) as conn:
        found = criteria_report(conn, "r", batches=9, criteria=9)
    assert found is not None
    assert (found.batches, found.criteria) == (1, [])
    worker.dispose()
    engine.dispose()


@pytest.mark.parametrize("table", Base.metadata.tables)
def test_an_analyst_writes_nowhere(login: Login, table: str) -> None:
    for statement in (
        f"INSERT INTO {table} DEFAULT VALUES",
        f"DELETE FROM {table}",
        f"DROP TABLE {table}",
    ):
        refused(login(ANALYST), statement)


def test_an_analyst_cannot_create_or_update(login: Login) -> None:
    for statement in (
        "CREATE TABLE extra (id int)",
        "DROP VIEW judge_history",
        "UPDATE rewards SET reward = 1",
        "UPDATE alembic_version SET version_num = '0001'",
        "SELECT nextval('runs_id_seq')",
    ):
        refused(login(ANALYST), statement)


def test_a_partition_has_the_grants_of_its_table(login: Login, postgres_url: str) -> None:
    owner = open_engine(postgres_url)
    create_partitions(owner, 2, now=START)
    owner.dispose()
    months = ("until_2026_05", "2026_05", "default")
    worker = open_engine(login(WORKER))
    for days in (0, 40, 400):
        with worker.begin() as conn:
            batch = make_batch(submitted_at=START + timedelta(days=days))
            key = ensure_run_and_batch(conn, batch)
            rows = [make_judgement(status="timeout", score=None)], [make_judgement()]
            for judgements in rows:  # the second replaces the first
                record_chunk(conn, key, rollouts=[make_rollout()], judgements=judgements)
            record_rewards(conn, key, [make_reward()])
    worker.dispose()
    for role in (WORKER, ANALYST):
        with psycopg.connect(login(role)) as reader:
            for month in ("", *(f"_{month}" for month in months)):
                found = reader.execute(f"SELECT score FROM judgements{month}".encode()).fetchall()
                assert found == [(7.0,)] * (1 if month else 3), month
        for month in months:
            refused(login(role), f"UPDATE rewards_{month} SET reward = 1")
            refused(login(role), f"DELETE FROM judgements_{month}")
    refused(login(ANALYST), "INSERT INTO judgements_default DEFAULT VALUES")


def test_a_role_that_is_not_there_or_may_do_everything_is_refused(postgres_url: str) -> None:
    migrations.upgrade(postgres_url)
    with pytest.raises(ValueError, match=r"'nobody': does not exist; CREATE ROLE"):
        roles.apply(postgres_url, ["nobody"], [])
    with pytest.raises(ValueError, match="is a superuser or a member of the record's owner"):
        roles.apply(postgres_url, [], ["postgres"])


def test_sqlite_has_no_roles_and_says_what_to_do(sqlite_url: str) -> None:
    with pytest.raises(ValueError, match="set the file's permissions, or use PostgreSQL"):
        roles.apply(sqlite_url, ["w"], [])
