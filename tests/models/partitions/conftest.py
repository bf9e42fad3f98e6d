"""A record on PostgreSQL that is not partitioned yet, and batches for it."""

from datetime import UTC, datetime

import pytest
from sqlalchemy import Engine

from oyer.models.queries import usage_of
from oyer.models.writes import (
    add_to_totals,
    ensure_run_and_batch,
    finish_batch,
    record_chunk,
    record_rewards,
    record_submissions,
)
from tests.support.record_rows import (
    make_attempt,
    make_batch,
    make_judgement,
    make_reward,
    make_rollout,
    make_submission,
)

NOW = datetime(2026, 3, 15, 12, tzinfo=UTC)
SIZE = 4


@pytest.fixture
def engine(postgres_engine: Engine) -> Engine:
    return postgres_engine


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
