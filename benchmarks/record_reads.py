"""The reads and writes of a record that `history.py` times: those of the product and of the docs."""

import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from random import Random

import bulk_record
from sqlalchemy import Connection

from oyer.models import queries
from oyer.models.rows import BatchKey
from oyer.models.writes import ensure_run_and_batch, record_chunk

ROOT = Path(__file__).parents[1]
CHUNK = 32
"""Rollouts that a worker records in one transaction."""

Work = Callable[[Connection], object]


@dataclass(frozen=True)
class Sample:
    """A run, one of its batches and some of its requests, which the reads are about."""

    run: str
    step: int
    batch_id: str
    request_hashes: list[str]


def sample_of(conn: Connection) -> Sample:
    """Return the first batch of a run in the middle of the record."""
    runs = conn.exec_driver_sql("SELECT name FROM runs ORDER BY id").scalars().all()
    run = runs[len(runs) // 2]
    batch_id, step = conn.exec_driver_sql(
        "SELECT batches.id, step FROM batches JOIN runs ON runs.id = run_id"
        f" WHERE name = '{run}' ORDER BY step LIMIT 1"
    ).one()
    found = conn.exec_driver_sql(
        f"SELECT request_hash FROM judgements WHERE batch_id = '{batch_id}' LIMIT 500"
    )
    unknown = Random(1)
    hashes = [*found.scalars(), *(f"{unknown.getrandbits(256):064x}" for _ in range(500))]
    return Sample(run, step, batch_id, hashes)


def documented(sample: Sample) -> dict[str, Work]:
    """Return the SQL of docs/record.md, for the sample."""
    page = (ROOT / "docs" / "record.md").read_text()
    found = re.findall(r"```sql\n(.*?)```", page, re.DOTALL)
    work: dict[str, Work] = {}
    for query in dict.fromkeys(found):
        statement = query.replace("'first'", f"'{sample.run}'")
        statement = statement.replace("'BATCH'", f"'{sample.batch_id}'")
        statement = statement.replace("step = 0", f"step = {sample.step}")
        work[" ".join(query.split())] = _sql(statement)
    return work


def ad_hoc(sample: Sample) -> dict[str, Work]:
    """Return queries that users write by hand."""
    of_step = f"run = '{sample.run}' AND step = {sample.step}"
    conditions = {
        "SELECT * of a batch, with texts": f"batch_id = '{sample.batch_id}'",
        "SELECT * of a step, with texts": of_step,
        "SELECT * of the scored of a step": f"{of_step} AND status = 'scored'",
        "SELECT * of one rollout": f"batch_id = '{sample.batch_id}' AND rollout_index = 7",
    }
    work = {
        name: _sql(f"SELECT * FROM judge_history WHERE {condition}")
        for name, condition in conditions.items()
    }
    work["the last batches of a step of all runs"] = _sql(
        f"SELECT id, status FROM batches WHERE step = {sample.step} LIMIT 50"
    )
    return work


def of_the_product(sample: Sample) -> dict[str, Work]:
    """Return what workers and the command line read and write."""
    batch_id, run, hashes = sample.batch_id, sample.run, sample.request_hashes
    return {
        "list_batches": queries.list_batches,
        "list_batches of a run": lambda conn: queries.list_batches(conn, run=run),
        "list_batches by status": lambda conn: queries.list_batches(conn, status="failed"),
        "ids_starting": lambda conn: queries.ids_starting(conn, batch_id[:7], 5),
        "missing_from_record, 1,000 ids": lambda conn: queries.missing_from_record(
            conn, [batch_id, *(str(uuid.UUID(int=i)) for i in range(999))]
        ),
        "scored_by_request, 1,000": lambda conn: queries.scored_by_request(conn, hashes),
        "scored_by_request of a run, 1,000": lambda conn: queries.scored_by_request(
            conn, hashes, run
        ),
        "judgements_of a chunk": lambda conn: queries.judgements_of(conn, batch_id, range(32)),
        "judgements_of a batch": lambda conn: queries.judgements_of(conn, batch_id),
        "rewards_of": lambda conn: queries.rewards_of(conn, batch_id),
        "group_ids_of": lambda conn: queries.group_ids_of(conn, batch_id),
        "usage_of": lambda conn: queries.usage_of(conn, batch_id),
        "counts_of": lambda conn: queries.counts_of(conn, batch_id),
        "work_of": lambda conn: queries.work_of(conn, batch_id),
        "first_errors_of": lambda conn: queries.first_errors_of(conn, batch_id),
        "cost_of_run": lambda conn: queries.cost_of_run(conn, run),
        f"record a chunk of {CHUNK}": record_new_chunk,
    }


def record_new_chunk(conn: Connection) -> None:
    """Record a chunk of a new batch, as a judge worker does."""
    rng = Random()
    filler = "so the sum is right and the answer stands; " * 100
    sent_at = bulk_record.START - timedelta(days=1, seconds=rng.randrange(80_000))
    key: BatchKey = ensure_run_and_batch(
        conn,
        {
            "id": str(uuid.UUID(int=rng.getrandbits(128), version=4)),
            "run": "recorded while timing",
            "step": 0,
            "size": CHUNK,
            "plan": {},
            "oyer_version": "0",
            "submitted_at": sent_at,
        },
    )
    tag = str(rng.random())
    judged = [bulk_record.judgement_of(i, rng, filler, sent_at) for i in range(CHUNK)]
    record_chunk(
        conn,
        key,
        rollouts=[bulk_record.rollout_of(i, rng, filler, tag, 0) for i in range(CHUNK)],
        judgements=judged,
        attempts=[bulk_record.attempt_of(row, rng, sent_at) for row in judged],
    )


def _sql(statement: str) -> Work:
    return lambda conn: conn.exec_driver_sql(statement).all()
