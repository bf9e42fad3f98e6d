"""The tables that grow can be partitioned by month without a change to any read or write."""

from collections.abc import Iterator
from datetime import timedelta

import pytest
from sqlalchemy import Connection, Engine, text

from oyer import migrations
from oyer.models import Attempt, Judgement, Reward, Rollout
from oyer.models.engine import open_engine
from oyer.models.partitions.create import create_partitions
from oyer.models.queries import judgements_of, list_batches, rewards_of, scored_by_request, usage_of
from oyer.models.rows import BatchKey
from oyer.models.writes import ensure_run_and_batch, record_chunk, record_rewards
from tests.support.query_plans import plan_of
from tests.support.record_rows import (
    START,
    make_attempt,
    make_batch,
    make_judgement,
    make_reward,
    make_rollout,
)

GROWING = [model.__tablename__ for model in (Attempt, Judgement, Reward, Rollout)]

MONTHS = ("until_2026_04", "2026_04")
"""Partitions of the tables of a record that is partitioned in March."""


@pytest.fixture
def partitioned(postgres_url: str) -> Iterator[Engine]:
    """A record that `oyer db partitions` made partitioned in March."""
    migrations.upgrade(postgres_url)
    engine = open_engine(postgres_url)
    create_partitions(engine, 2, now=START - timedelta(days=10))
    yield engine
    engine.dispose()


def record_all(engine: Engine, **changed: object) -> BatchKey:
    with engine.begin() as conn:
        key = ensure_run_and_batch(conn, make_batch(**changed))
        for score in (7.0, 1.0):
            kept = record_chunk(
                conn,
                key,
                rollouts=[make_rollout(i) for i in range(4)],
                judgements=[make_judgement(i, score=score) for i in range(4)],
                attempts=[make_attempt(i, id=str(i)) for i in range(4)],
            )
        assert len(kept) == 4
        record_rewards(conn, key, [make_reward(i) for i in range(4)])
    return key


def test_partitioned_tables_take_the_same_writes_and_reads(partitioned: Engine) -> None:
    march = record_all(partitioned)
    april = record_all(partitioned, submitted_at=START + timedelta(seconds=2))
    with partitioned.begin() as conn:
        for key in (march, april):
            assert [row["score"] for row in judgements_of(conn, key.batch_id)] == [7.0] * 4
            assert len(rewards_of(conn, key.batch_id)) == 4
            assert usage_of(conn, key.batch_id)["calls"] == 4
        last = scored_by_request(conn, [f"{0:064x}"])[f"{0:064x}"]
        assert last["batch_id"] == april.batch_id
        assert [row["counts"] for row in list_batches(conn)] == [{"scored": 4}] * 2
        for table in GROWING:
            for month in MONTHS:
                rows = conn.scalar(text(f"SELECT count(*) FROM {table}_{month}"))
                assert (table, month, rows) == (table, month, 4)


def test_a_batch_is_read_from_its_own_partition_only(partitioned: Engine) -> None:
    march = record_all(partitioned)

    def read(conn: Connection) -> object:
        return judgements_of(conn, march.batch_id)

    steps = plan_of(partitioned, read, "EXPLAIN (ANALYZE, COSTS OFF)").splitlines()
    run = {month: [step for step in steps if f"on judgements_{month}" in step] for month in MONTHS}
    assert [len(found) for found in run.values()] == [1, 1]
    assert "never executed" in run["2026_04"][0]
    assert "never executed" not in run["until_2026_04"][0]
