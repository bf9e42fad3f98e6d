"""Threads, processes and greenlets write the same batch at once."""

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from random import Random

import pytest
from sqlalchemy import Engine

from oyer.models.engine import open_engine
from oyer.models.queries import judgements_of, rewards_of
from oyer.models.rows import BatchRow
from oyer.models.writes import ensure_run_and_batch, record_chunk, record_rewards
from tests.support.paths import ROOT
from tests.support.record_counts import rows
from tests.support.record_rows import (
    make_attempt,
    make_batch,
    make_judgement,
    make_reward,
    make_rollout,
)


def write_shuffled(url: str, batch: BatchRow, seed: int) -> None:
    """Record the same batch as every other writer, in an order and with scores of its own."""
    engine = open_engine(url)
    random = Random(seed)
    for _ in range(5):
        order = random.sample(range(24), 24)
        with engine.begin() as conn:
            key = ensure_run_and_batch(conn, batch)
            record_chunk(
                conn,
                key,
                rollouts=[make_rollout(index) for index in order],
                judgements=[make_judgement(index, score=float(seed)) for index in order],
                attempts=[make_attempt(index, id=f"{seed}-{index}") for index in order],
            )
        with engine.begin() as conn:
            record_rewards(conn, key, [make_reward(i, reward=float(seed)) for i in order])
    engine.dispose()


@pytest.mark.parametrize("pool", [ThreadPoolExecutor, ProcessPoolExecutor])
def test_writers_of_the_same_batch_do_not_deadlock_or_double(
    engine: Engine, store_url: str, pool: Callable[..., Executor]
) -> None:
    context = {} if pool is ThreadPoolExecutor else {"mp_context": get_context("spawn")}
    batch, writers = make_batch(), 4
    with pool(writers, **context) as started:
        written = [started.submit(write_shuffled, store_url, batch, n) for n in range(writers)]
        for future in written:
            future.result()
    with engine.connect() as conn:
        judgements, rewards = judgements_of(conn, batch["id"]), rewards_of(conn, batch["id"])
    assert [row["rollout_index"] for row in judgements] == list(range(24))
    assert len({row["score"] for row in judgements}) == 1
    assert [row["rollout_index"] for row in rewards] == list(range(24))
    assert len({row["reward"] for row in rewards}) == 1
    assert rows(engine)["rollouts"] == 24
    assert rows(engine)["attempts"] == 24 * writers


GREENLETS = """
from gevent import monkey; monkey.patch_all()
import sys, gevent
from oyer.models.writes import ensure_run_and_batch, record_chunk
from oyer.models.engine import open_engine
from tests.support.record_rows import make_batch, make_judgement, make_rollout

engine, batch = open_engine(sys.argv[1]), make_batch()

def write(index):
    with engine.begin() as conn:
        key = ensure_run_and_batch(conn, batch)
        rows = range(index, index + 8)
        record_chunk(conn, key, rollouts=map(make_rollout, rows), judgements=[*map(make_judgement, rows)])

gevent.joinall([gevent.spawn(write, 8 * n) for n in range(40)], raise_error=True)
"""
"""A worker's greenlets, more of them than the pool has connections, write one batch."""


def test_greenlets_of_a_worker_share_the_pool(engine: Engine, store_url: str) -> None:
    subprocess.run([sys.executable, "-c", GREENLETS, store_url], check=True, cwd=ROOT)
    counts = rows(engine)
    assert (counts["rollouts"], counts["judgements"]) == (320, 320)
