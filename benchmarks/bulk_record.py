"""Fills a record with judgements: real batches first, then copies of them made inside the database.

- The first batches are written by the functions that the workers write with: 10 runs, batches of
  1,000 rollouts in groups of 8, responses of about 1.4 kB, replies of about 0.4 kB.
- A copy gets new ids, hashes and texts, and later steps and times. Its hashes are spread over the
  whole index, as real ones are. After 10 steps, copies belong to new runs, so that a run has 10,000
  judgements however large the record is.
"""

import json
import random
import time
import uuid
from datetime import UTC, datetime, timedelta
from importlib import import_module
from typing import Any

from sqlalchemy import Column, Connection, Engine, text

from oyer.models.base import Base, Timestamp
from oyer.models.rows import AttemptRow, BatchKey, JudgementRow, RewardRow, RolloutRow
from oyer.models.writes import (
    ensure_run_and_batch,
    finish_batch,
    record_chunk,
    record_rewards,
    record_rubrics,
)

RUNS = 10
BATCH_SIZE = 1000
GROUP_SIZE = 8
RESPONSE_CHARACTERS = 1400
REPLY_CHARACTERS = 400
START = datetime(2026, 1, 1, tzinfo=UTC)
RUBRIC_HASH = "ab" * 32

PARAMETERS = json.dumps(
    {
        "key": {
            "endpoint": "local",
            "model": "judge-7b",
            "sampling": {"temperature": 0.0},
            "rubric_hash": RUBRIC_HASH,
        },
        "scale": [1, 10],
        "body": {"model": "judge-7b"},
    }
)
"""How each judgement was asked for."""

FIRST = 2 * RUNS * BATCH_SIZE
"""Judgements recorded by the workers' functions; the rest are copies of these."""

COPIES_PER_RUN = 5
"""Copies, of two steps each, before new runs begin; the first batches count as one."""

COPIED = ("batches", "texts", "rollouts", "judgements", "attempts", "rewards")
"""Tables that copies are added to, in the order that foreign keys allow."""

_WORDS = ("sum", "number", "checked", "step", "written", "stands", "answer", "equals", "therefore")


def fill(engine: Engine, judgements: int) -> None:
    """Bring the record to at least `judgements` rollouts with one judgement each."""
    with engine.begin() as conn:
        present = int(conn.exec_driver_sql("SELECT count(*) FROM batches").scalar_one())
        record_rubrics(conn, [{"hash": RUBRIC_HASH, "name": "reasoning_en", "text": "{response}"}])
    rng = random.Random(0)
    filler = " ".join(rng.choices(_WORDS, k=200_000))
    wanted = -(-judgements // BATCH_SIZE)
    for number in range(present, min(wanted, FIRST // BATCH_SIZE)):
        step, run = divmod(number, RUNS)
        record_batch(engine, rng, filler, f"exp-{run:02}", step, number)
    began, first = time.perf_counter(), FIRST // BATCH_SIZE
    for copy in range(max(1, present // first), -(-wanted // first)):
        with engine.begin() as conn:
            add_copy(conn, copy)
        if copy % 10 == 0:
            rate = copy * FIRST / (time.perf_counter() - began)
            print(f"{(copy + 1) * FIRST} judgements, {rate:.0f} a second", flush=True)
    with engine.begin() as conn:
        fill_totals(conn)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT", sqlite_begin="") as conn:
        # PostgreSQL does so by itself; SQLite's planner is left without figures, as in production.
        if engine.dialect.name == "postgresql":
            conn.exec_driver_sql("VACUUM ANALYZE")


def fill_totals(conn: Connection) -> None:
    """Add up the totals of all steps, by the queries of the migration that added the table."""
    source = import_module("oyer.migrations.versions.0007_keep_totals_and_human_verdicts")
    conn.exec_driver_sql("DELETE FROM step_totals")
    for query in source.TOTALS + source.BY_DIALECT[conn.dialect.name]:
        conn.execute(text(("INSERT INTO step_totals " + query).replace(":", r"\:")))


def add_copy(conn: Connection, copy: int) -> None:
    """Add a copy of the first batches, as the steps that follow."""
    last = START + timedelta(minutes=5 * FIRST // BATCH_SIZE)
    first = f"submitted_at < '{last:%Y-%m-%dT%H:%M:%S.%fZ}'"
    held = " UNION ".join(
        f"SELECT {name} FROM rollouts WHERE {first}" for name in ("prompt_hash", "response_hash")
    )
    if copy % COPIES_PER_RUN == 0:
        conn.exec_driver_sql(
            f"INSERT INTO runs (name, created_at) SELECT name || '{_run_suffix(copy)}', created_at"
            f" FROM runs WHERE id IN (SELECT run_id FROM batches WHERE {first})"
        )
    for table in COPIED:
        columns = Base.metadata.tables[table].c
        values = ", ".join(_copied(conn.dialect.name, column, copy) for column in columns)
        conn.exec_driver_sql(
            f"INSERT INTO {table} ({', '.join(column.name for column in columns)})"
            f" SELECT {values} FROM {table} WHERE {f'hash IN ({held})' if table == 'texts' else first}"
        )


def _copied(dialect: str, column: Column[Any], copy: int) -> str:
    """Return the SQL expression of a column's value in a copy."""
    name, tag = column.name, f"{copy:06x}"
    if isinstance(column.type, Timestamp):
        later = f"{5 * FIRST // BATCH_SIZE * copy} minutes"
        if dialect == "postgresql":
            return f"{name} + interval '{later}'"
        return f"strftime('%Y-%m-%dT%H:%M:%f', {name}, '+{later}') || '000Z'"
    if name in ("id", "batch_id"):
        return f"substr({name}, 1, 2) || '{tag}' || substr({name}, 9)"
    if name in ("hash", "prompt_hash", "response_hash", "request_hash"):
        return f"substr({name}, 1, 4) || '{tag}' || substr({name}, 11)"
    changed = {
        "step": f"step + {2 * (copy % COPIES_PER_RUN)}",
        "group_id": f"group_id || '-{copy}'",
    }
    if copy >= COPIES_PER_RUN:
        changed["run_id"] = (
            "(SELECT new.id FROM runs AS new JOIN runs AS old"
            f" ON new.name = old.name || '{_run_suffix(copy)}' WHERE old.id = run_id)"
        )
    return changed.get(name, f"'{tag} ' || body" if name == "body" else name)


def _run_suffix(copy: int) -> str:
    """Return what follows the names of the first runs in those of a copy."""
    return f"-{copy // COPIES_PER_RUN}"


def record_batch(
    engine: Engine, rng: random.Random, filler: str, run: str, step: int, number: int
) -> None:
    """Record one finished batch in one transaction."""
    sent_at = START + timedelta(minutes=5 * number)
    batch_id = str(uuid.UUID(int=rng.getrandbits(128), version=4))
    judged = [judgement_of(i, rng, filler, sent_at) for i in range(BATCH_SIZE)]
    counts: dict[str, int] = {}
    for row in judged:
        counts[row["status"]] = counts.get(row["status"], 0) + 1
    with engine.begin() as conn:
        key: BatchKey = ensure_run_and_batch(
            conn,
            {
                "id": batch_id,
                "run": run,
                "step": step,
                "size": BATCH_SIZE,
                "plan": {"judges": [{"name": "quality", "scale": [1, 10]}], "length": []},
                "oyer_version": "0",
                "submitted_at": sent_at,
            },
        )
        rollouts = [rollout_of(i, rng, filler, run, step) for i in range(BATCH_SIZE)]
        attempts = [attempt_of(row, rng, sent_at) for row in judged]
        record_chunk(conn, key, rollouts=rollouts, judgements=judged, attempts=attempts)
        rewards = [
            reward_of(row, judgement, sent_at)
            for row, judgement in zip(rollouts, judged, strict=True)
        ]
        record_rewards(conn, key, rewards)
        finish_batch(
            conn,
            batch_id,
            status="finished",
            finished_at=sent_at + timedelta(seconds=40),
            counts=counts,
            usage={"calls": BATCH_SIZE, "cost_usd": 0.4},
        )


def rollout_of(i: int, rng: random.Random, filler: str, run: str, step: int) -> RolloutRow:
    """Make a rollout whose group shares its prompt."""
    start = rng.randrange(len(filler) - RESPONSE_CHARACTERS)
    return {
        "rollout_index": i,
        "prompt": f"Question {i // GROUP_SIZE} of step {step}: how much is it?",
        "response": f"{run} {step} {i} {filler[start : start + RESPONSE_CHARACTERS]}",
        "reference": "42",
        "group_id": f"q{step * BATCH_SIZE // GROUP_SIZE + i // GROUP_SIZE}",
        "base_score": float(rng.random() < 0.5 and i % 64 >= GROUP_SIZE),
        "truncated": rng.random() < 0.02,
        "response_tokens": rng.randrange(50, 2000),
        "metadata": {"source": "gsm8k"},
    }


def judgement_of(i: int, rng: random.Random, filler: str, sent_at: datetime) -> JudgementRow:
    """Make a judgement; one in a hundred has no score."""
    start = rng.randrange(len(filler) - REPLY_CHARACTERS)
    failed = i % 100 == 99
    return {
        "rollout_index": i,
        "judge": "quality",
        "sample": 0,
        "status": "unparseable" if failed else "scored",
        "attempts": 1,
        "source": "called",
        "score": None if failed else float(rng.randrange(1, 11)),
        "reply": filler[start : start + REPLY_CHARACTERS],
        "parsed_layer": None if failed else "final_label",
        "parsed_span": None if failed else "Final score: 7",
        "parser_version": 1,
        "parameters": PARAMETERS,
        "model": "judge-7b",
        "endpoint": "local",
        "rubric_hash": RUBRIC_HASH,
        "request_hash": f"{rng.getrandbits(256):064x}",
        "prompt_tokens": 700,
        "completion_tokens": 90,
        "cost_usd": 0.0004,
        "latency_ms": rng.uniform(300, 3000),
        "worker": f"judge-{i % 4}@host",
        "error": "no score" if failed else None,
        "started_at": sent_at + timedelta(seconds=1),
        "finished_at": sent_at + timedelta(seconds=2),
    }


def attempt_of(judged: JudgementRow, rng: random.Random, sent_at: datetime) -> AttemptRow:
    """Make the one request of a judgement."""
    return {
        "rollout_index": judged["rollout_index"],
        "judge": judged["judge"],
        "sample": 0,
        "id": str(uuid.UUID(int=rng.getrandbits(128), version=4)),
        "number": 1,
        "started_at": sent_at + timedelta(seconds=1),
        "url_index": 0,
        "http_status": 200,
        "latency_ms": judged["latency_ms"],
        "prompt_tokens": 700,
        "completion_tokens": 90,
        "cost_usd": 0.0004,
    }


def reward_of(row: RolloutRow, judged: JudgementRow, sent_at: datetime) -> RewardRow:
    """Make the reward of a rollout."""
    base, score = row["base_score"] or 0.0, judged["score"]
    shaped = None if score is None else base + 0.1 * score
    return {
        "rollout_index": row["rollout_index"],
        "status": judged["status"],
        "trainable": shaped is not None,
        "terms": {"base_score": base, "judge": score, "length_penalty": -0.1},
        "created_at": sent_at + timedelta(seconds=3),
        "reward": shaped,
        "unshaped_reward": shaped,
        "judge_score": score,
    }
