"""Fills a record with judgements, and times every query that README, docs and help show on it.

    python benchmarks/history.py --url sqlite:////tmp/history.db --fill 1000000
    python benchmarks/history.py --url sqlite:////tmp/history.db        # time only
    python benchmarks/history.py --url sqlite:////tmp/history.db --pages  # each page of `oyer view`
    python benchmarks/history.py --url sqlite:////tmp/history.db --prune
    python benchmarks/history.py --url postgresql://postgres@/history --fill 1000000

- The rows are written by the functions that the workers write with: 10 runs, batches of 1,000
  rollouts in groups of 8, responses of about 1.4 kB, replies of about 0.4 kB.
- The queries are the SQL blocks of README.md and docs/record.md, for one run, step and batch.
- Each query runs four times, and the median of the last three is printed, with all rows fetched.
"""

import argparse
import random
import re
import statistics
import time
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

from history_pages import time_pages
from sqlalchemy import Engine

from oyer import migrations
from oyer.models.engine import open_engine, reading
from oyer.models.prune import Selection, prune
from oyer.models.rows import AttemptRow, BatchKey, JudgementRow, RewardRow, RolloutRow
from oyer.models.writes import (
    add_to_totals,
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

_WORDS = ("sum", "number", "checked", "step", "written", "stands", "answer", "equals", "therefore")


def fill(engine: Engine, judgements: int) -> None:
    """Record `judgements` rollouts with one judgement each, in batches of 1,000."""
    rng = random.Random(0)
    filler = " ".join(rng.choices(_WORDS, k=200_000))
    steps = max(1, judgements // BATCH_SIZE // RUNS)
    with engine.begin() as conn:
        record_rubrics(conn, [{"hash": RUBRIC_HASH, "name": "reasoning_en", "text": "{response}"}])
    began = time.perf_counter()
    for number in range(steps * RUNS):
        step, run = divmod(number, RUNS)
        record_batch(engine, rng, filler, f"exp-{run:02}", step, number)
        if (number + 1) % 50 == 0:
            rate = (number + 1) * BATCH_SIZE / (time.perf_counter() - began)
            print(f"{(number + 1) * BATCH_SIZE} judgements, {rate:.0f} a second", flush=True)


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
                "plan": {
                    "judges": [{"name": "quality", "scale": [1, 10], "weight": 0.1}],
                    "length": [],
                },
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
        add_to_totals(conn, batch_id, totals_of_rows(rewards, judged))
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


def totals_of_rows(
    rewards: list[RewardRow], judged: list[JudgementRow]
) -> dict[str, tuple[int, float, float]]:
    """Return the quantities of a batch for `step_totals`."""
    values = [row["reward"] for row in rewards if row["reward"] is not None]
    statuses = [row["status"] for row in rewards]
    found = {f"status/{one}": (statuses.count(one), 0.0, 0.0) for one in set(statuses)}
    latencies_ms = [row["latency_ms"] or 0.0 for row in judged]
    return found | {
        "reward": (len(values), sum(values), sum(value**2 for value in values)),
        "component/length_penalty": (len(rewards), -0.1 * len(rewards), 0.01 * len(rewards)),
        "groups": (len(rewards) // GROUP_SIZE, 3.0, 0.0),
        "cost_usd": (len(judged), 0.0004 * len(judged), 0.0),
        "judge_ms": (len(judged), sum(latencies_ms), sum(ms**2 for ms in latencies_ms)),
        "batch_s": (1, 40.0, 0.0),
    }


def main() -> None:
    """Fill the database if an option says so, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--url", required=True, help="the record, sqlite:///… or postgresql://…")
    parser.add_argument("--fill", type=int, help="judgements to record first, e.g. 1000000")
    parser.add_argument("--prune", action="store_true", help="time pruning five of the ten runs")
    parser.add_argument("--pages", action="store_true", help="time the pages of `oyer view`")
    options = parser.parse_args()
    migrations.upgrade(options.url)
    engine = open_engine(options.url)
    if options.fill:
        fill(engine, options.fill)
    if options.prune:
        time_prune(engine)
        return
    if options.pages:
        time_pages(engine)
        return
    pages = [Path(__file__).parents[1] / name for name in ("README.md", "docs/record.md")]
    for page in pages:
        for query in re.findall(r"```sql\n(.*?)```", page.read_text(), re.DOTALL):
            print(
                f"{time_query(engine, query):9.1f} ms  {' '.join(query.split())[:100]}", flush=True
            )
    engine.dispose()


def time_query(engine: Engine, query: str) -> float:
    """Return the median time of a query on one of the filled runs, in milliseconds."""
    step = (
        "SELECT batches.id, step FROM batches JOIN runs ON runs.id = run_id WHERE name = 'exp-04'"
    )
    times_ms = []
    for _ in range(4):
        with reading(engine) as conn:
            batch_id, number = conn.exec_driver_sql(f"{step} ORDER BY step LIMIT 1").one()
            statement = query.replace("'first'", "'exp-04'").replace("'BATCH'", f"'{batch_id}'")
            statement = statement.replace("step = 0", f"step = {number}")
            began = time.perf_counter()
            conn.exec_driver_sql(statement).all()
            times_ms.append((time.perf_counter() - began) * 1000)
    return statistics.median(times_ms[1:])


def time_prune(engine: Engine) -> None:
    """Prune every other run, and print how long that and its longest transaction took."""
    selection = Selection(runs=[f"exp-{run:02}" for run in range(0, RUNS, 2)])
    rollouts, longest_s = 0, 0.0
    began = last = time.perf_counter()
    for done in prune(engine, selection, texts_only=False):
        now = time.perf_counter()
        rollouts, longest_s, last = rollouts + done.rollouts, max(longest_s, now - last), now
    wall_s = time.perf_counter() - began
    print(
        f"{rollouts} rollouts pruned in {wall_s:.1f} s, {rollouts / wall_s:.0f} a second;"
        f" longest transaction {longest_s:.2f} s"
    )
    engine.dispose()


if __name__ == "__main__":
    main()
