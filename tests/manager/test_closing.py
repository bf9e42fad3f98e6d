"""When an embedded backend stops, pending work ends for its waiters and in the record."""

import contextlib
import logging
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from oyer.demo.judge_server import JudgeServer
from oyer.demo.responses import Action
from oyer.manager import BackendUnavailable, BatchCancelled, RewardFuture, RewardManager
from oyer.manager.score import Score
from oyer.manager.streaming.pending import Pending
from oyer.models import queries
from oyer.models.engine import open_engine, reading
from oyer.models.rows import StoredBatch
from oyer.models.step_total import StepTotal
from tests.support.scripted_backend import rollout

WAIT_S = 60.0


def config(judge: JudgeServer, folder: Path) -> dict[str, Any]:
    return {
        "endpoints": {"fake": {"base_url": judge.base_url, "max_in_flight": 2}},
        "judges": [{"name": "quality", "endpoint": "fake", "model": "m"}],
        "length": {"method": "median_band"},
        "store": {"url": f"sqlite:///{folder / 'oyer.db'}"},
        "grace_s": 20.0,
    }


def on_record(folder: Path) -> list[StoredBatch]:
    engine = open_engine(f"sqlite:///{folder / 'oyer.db'}")
    with reading(engine) as conn:
        states = queries.list_batches(conn)
    engine.dispose()
    return states


def requests_in_totals(folder: Path) -> int:
    engine = open_engine(f"sqlite:///{folder / 'oyer.db'}")
    with reading(engine) as conn:
        found = conn.scalars(select(StepTotal.n).where(StepTotal.name == "cost_usd"))
        requests = sum(found)
    engine.dispose()
    return requests


def test_close_cancels_pending_batches_and_rollouts(
    judge: JudgeServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    judge.set_plan(Action(hold=True))
    caplog.set_level(logging.WARNING)
    manager = RewardManager.local(config(judge, tmp_path), judge_processes=1)
    rows = [rollout("closing", i, group_id="g", response_tokens=10) for i in range(8)]
    future = manager.submit(rows)
    waiting = manager.score(rows[0], group_size=4)
    judge.wait_until(lambda log: len(log) >= 2)

    def answer(_: object) -> None:
        # A call may begin before its worker hears of the end.
        judge.set_plan(Action(text="Final score: 5"))
        judge.release()

    future.add_done_callback(answer)
    manager.close()
    for ended in (future, waiting):
        with pytest.raises(BatchCancelled, match="closed"):
            ended.result(WAIT_S)
    (state,) = [state for state in on_record(tmp_path) if state["size"] == 8]
    assert state["status"] == "cancelled"
    assert "its backend was stopped" in str(state["ending"])
    # Calls in flight were finished, and are counted.
    assert state["counts"] is not None
    assert state["counts"].get("scored", 0) >= 2
    assert state["usage"] is not None
    assert state["usage"]["calls"] >= 2
    used = [one["usage"]["calls"] for one in on_record(tmp_path) if one["usage"]]
    assert requests_in_totals(tmp_path) == sum(used)
    assert "cannot be reached" not in caplog.text


def test_what_is_submitted_while_the_backend_stops_ends_too(
    judge: JudgeServer, tmp_path: Path
) -> None:
    judge.set_plan(Action(hold=True))
    manager = RewardManager.local(config(judge, tmp_path), judge_processes=1)
    rows = [rollout("stopping", i, group_id="g", response_tokens=10) for i in range(4)]
    late: list[RewardFuture | Pending[Score]] = []

    def submit_more(_: object) -> None:
        late.append(manager.submit(rows))
        late.append(manager.score(rows[0], group_size=4))
        judge.set_plan(Action(text="Final score: 5"))
        judge.release()

    manager.submit(rows[:2]).add_done_callback(submit_more)
    judge.wait_until(lambda log: len(log) >= 2)
    manager.close()
    assert len(late) == 2
    for one in late:
        with contextlib.suppress(BatchCancelled, BackendUnavailable):
            one.result(WAIT_S)
        assert one.done()


def test_ctrl_c_in_a_script_cancels_its_batch_in_the_record(
    judge: JudgeServer, tmp_path: Path
) -> None:
    judge.set_plan(Action(hold=True))
    script = textwrap.dedent(
        f"""
        from oyer.manager import RewardManager, Rollout
        with RewardManager.local({config(judge, tmp_path)!r}, judge_processes=1) as manager:
            rows = [Rollout(prompt="p", response=f"r {{i}}", group_id="g", base_score=1.0,
                            response_tokens=9) for i in range(8)]
            future = manager.submit(rows)
            future.add_done_callback(lambda _: print("cancelled", flush=True))
            future.result()
        """
    )
    path = tmp_path / "train.py"
    path.write_text(script)
    with subprocess.Popen(
        [sys.executable, str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ,
    ) as process:
        judge.wait_until(lambda log: len(log) >= 2, timeout_s=2 * WAIT_S)
        process.send_signal(signal.SIGINT)
        assert process.stdout is not None
        assert process.stdout.readline() == "cancelled\n"
        # A call may begin before its worker hears of the end.
        judge.set_plan(Action(text="Final score: 5"))
        judge.release()
        _, stderr = process.communicate(timeout=WAIT_S)
    assert "KeyboardInterrupt" in stderr
    assert "cannot be reached" not in stderr
    (state,) = on_record(tmp_path)
    assert (state["status"], state["usage"] is not None) == ("cancelled", True)
