"""The record is pruned, partitioned, exported and backed up while workers write to it."""

import json
import threading
from pathlib import Path

from sqlalchemy import text

from oyer.demo.judge_server import JudgeServer
from oyer.demo.request_log import RequestEntry
from oyer.demo.responses import Action
from oyer.manager import RewardBatch, RewardManager
from oyer.models.engine import open_engine, reading
from tests.support.cli_process import oyer
from tests.support.rollouts import rollouts_of
from tests.support.scripted_backend import user_text

N = 40
BATCHES = 6


def test_upkeep_runs_while_a_trainer_submits(
    judge: JudgeServer, store_url: str, tmp_path: Path
) -> None:
    """No batch in flight is lost, and a reused score outlives the judgement it came from."""

    def plan(arrival: RequestEntry) -> Action:
        held = "held" in user_text(arrival)
        return Action(text="Final score: 6", latency_s=0.1, hold=held)

    judge.set_plan(plan)
    config = {
        # The held calls last as long as the upkeep, and are not to be repeated.
        "endpoints": {
            "fake": {"base_url": judge.base_url, "max_in_flight": 2 * N, "timeout_s": 600}
        },
        "judges": [{"name": "q", "endpoint": "fake", "model": "m"}],
        "store": {"url": store_url},
    }
    upkeep = [
        ("prune", "--run", "old", "--texts", "--yes"),
        ("prune", "--older-than", "0h", "--keep-run", "new", "--yes"),
        ("export", "new", "--to", "jsonl"),
    ]
    if store_url.startswith("sqlite"):
        upkeep.append(("backup", "copy.db"))
    else:
        upkeep[1:1] = [("partitions", "--yes"), ("partitions", "--drop-older-than", "1h", "--yes")]
    with RewardManager.local(config, folder=tmp_path, judge_processes=2) as manager:
        first = manager.submit(rollouts_of("shared", N), run="old", step=0).result()
        again = manager.submit(rollouts_of("shared", N), run="new", step=0).result()
        assert (first.usage.calls, again.usage.calls) == (N, 0)
        done: list[RewardBatch] = []

        def submit() -> None:
            futures = [
                manager.submit(rollouts_of(f"new-{step}", N), run="new", step=step)
                for step in range(1, BATCHES)
            ]
            done.extend(future.result() for future in futures)

        held = manager.submit(rollouts_of("held", N), run="new", step=BATCHES)
        trainer = threading.Thread(target=submit)
        trainer.start()
        for command in upkeep:
            found = oyer("db", *command, "--url", store_url, cwd=tmp_path)
            assert (found.returncode, found.stderr.count("Traceback")) == (0, 0), found.stderr
        trainer.join(300)
        judge.wait_until(lambda log: sum("held" in user_text(one) for one in log) == N)
        judge.release()
        done.append(held.result())
        assert len(done) == BATCHES
        for batch in done:
            assert batch.judge_scores.tolist() == [6.0] * N
    engine = open_engine(store_url)
    with reading(engine) as conn:
        counts = conn.execute(
            text("SELECT run, step, count(*) FROM judge_history GROUP BY run, step ORDER BY step")
        ).all()
        kept = conn.execute(
            text("SELECT DISTINCT score, reply FROM judge_history WHERE run = 'new' AND step = 0")
        ).all()
    engine.dispose()
    assert [tuple(row) for row in counts] == [("new", step, N) for step in range(BATCHES + 1)]
    assert [tuple(row) for row in kept] == [(6.0, "Final score: 6")]
    asked = oyer(
        "history",
        "request",
        f"{again.id}/0",
        "--json",
        cwd=tmp_path,
        OYER_STORE__URL=store_url,
    )
    assert "the original call is not in the record" in asked.stdout
    manifest = json.loads((tmp_path / "new-export/export.json").read_text())
    assert manifest["rows"]["rewards"] % N == 0
    assert manifest["rows"]["rewards"] >= N
