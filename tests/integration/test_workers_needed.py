"""Which workers a batch needs, and what they log about finished batches."""

from pathlib import Path

import numpy as np

from oyer.manager import RewardManager
from tests.support.rollouts import rollouts_of


def test_without_judges_no_judge_worker_is_needed(tmp_path: Path) -> None:
    config = {
        "length": {"method": "median_band"},
        "store": {"url": f"sqlite:///{tmp_path / 'oyer.db'}"},
    }
    with RewardManager.local(config, folder=tmp_path, judge_processes=0) as manager:
        batch = manager.submit(rollouts_of("plain"), run="plain", step=3).result(timeout_s=60)
    assert np.isfinite(batch.rewards).all()
    logs = {path.stem: path.read_text() for path in tmp_path.rglob("*.log")}
    assert {name for name in logs if name.startswith("judge")} == set()
    [line] = [line for line in logs["combine-1"].splitlines() if batch.id in line]
    assert "of run plain, step 3, has ended: 8 rollouts (8 scored), 0 calls, $0.0000" in line
    assert "worker stopped; 0 chunks handed back" in logs["combine-1"]
