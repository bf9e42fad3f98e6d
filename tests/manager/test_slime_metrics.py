"""What slime logs of the scores of a rollout's samples."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from oyer.demo.judge_server import JudgeServer
from oyer.demo.responses import Action, named
from oyer.manager.adapters import NeededFields
from oyer.manager.slime import group_rm, log_rollout
from oyer.manager.slime.samples import rollout_of
from tests.manager.test_slime import args, samples
from tests.support.scripted_backend import Running, user_text


def test_the_means_of_judges_and_terms_join_slimes_own_metrics(
    running: Running, judge: JudgeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "oyer.yaml"
    config = running[0].config.model_dump(mode="json")
    file.write_text(json.dumps({**config, "length": {"method": "median_band"}}))
    monkeypatch.setenv("OYER_CONFIG", str(file))

    def plan(arrival: Any) -> Action:
        failed = "logged 1." in user_text(arrival)
        return named("not_found") if failed else Action(text="Final score: 5")

    judge.set_plan(plan)
    group = samples("logged")
    asyncio.run(group_rm(args(), group))
    metrics: dict[str, Any] = {"rollout/dynamic_filter/drop": 2}
    assert not log_rollout(3, args(), group, metrics, 1.0)
    assert metrics == {
        "rollout/dynamic_filter/drop": 2,
        "rollout/oyer/missing": 0.25,
        "rollout/oyer/q": 5.0,
        "rollout/oyer/q_present": 0.75,
        "rollout/oyer/length_penalty": pytest.approx(-1 / 4),
        "rollout/oyer/length_penalty_present": 1.0,
    }
    assert not log_rollout(3, args(), group, None, 1.0)
    # A resumed sample is recorded without what an earlier call found.
    needed = NeededFields(token_ids=False, metadata=frozenset())
    assert rollout_of(args(), group[0], needed, "g").metadata == {"index": 10}
