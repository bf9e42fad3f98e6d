"""Judgements on record are reused only for the same state of the judge's model."""

import json
from pathlib import Path
from typing import Any

from oyer.demo.judge_server import JudgeServer
from oyer.demo.responses import Action
from oyer.manager import RewardManager
from tests.integration.test_judging import scored


def says(score: int, model: str = "m") -> Action:
    choice = {"message": {"content": f"Final score: {score}"}, "finish_reason": "stop"}
    return Action(body=json.dumps({"model": model, "choices": [choice]}))


def test_after_a_restart_another_checkpoint_is_called_unless_the_version_is_the_same(
    judge: JudgeServer, tmp_path: Path
) -> None:
    """An unchanged endpoint is not called again after the restart."""
    judge.set_plan(Action(text="Final score: 6"))

    def backend(own: JudgeServer, folder: str) -> Any:
        config = {
            "endpoints": {
                "own": {"base_url": own.base_url, "max_attempts": 1},
                "kept": {"base_url": judge.base_url},
            },
            "judges": [{"name": "q", "endpoint": "own", "model": "m"}],
            "store": {"url": f"sqlite:///{tmp_path / 'oyer.db'}"},
        }
        (tmp_path / folder).mkdir()
        return RewardManager.local(config, folder=tmp_path / folder, judge_processes=1)

    def versioned(manager: RewardManager, version: str | None) -> RewardManager:
        raw = manager.config.model_dump(mode="json")
        return RewardManager({**raw, "judges": [{**raw["judges"][0], "version": version}]})

    def unchanged(manager: RewardManager) -> RewardManager:
        raw = manager.config.model_dump(mode="json")
        return RewardManager({**raw, "judges": [{**raw["judges"][0], "endpoint": "kept"}]})

    with JudgeServer(says(3)) as old, backend(old, "old") as manager:
        for version in (None, "step-100"):
            assert scored(versioned(manager, version), "same", 2).judge_scores.tolist() == [3, 3]
        assert scored(manager, "same", 2).usage.calls == 0
        before = scored(unchanged(manager), "kept", 4, "before")
        assert (before.judge_scores.tolist(), before.usage.calls) == ([6.0] * 4, 4)
    with JudgeServer(says(8)) as new, backend(new, "new") as manager:
        after = scored(unchanged(manager), "kept", 4, "after")
        assert (after.judge_scores.tolist(), after.usage.calls) == ([6.0] * 4, 0)
        assert len(judge.requests) == 4
        first = scored(manager, "same", 2)
        assert (first.judge_scores.tolist(), first.usage.calls) == ([8, 8], 2)
        kept = scored(versioned(manager, "step-100"), "same", 2)
        assert (kept.judge_scores.tolist(), kept.usage.calls) == ([3, 3], 0)
        later = scored(versioned(manager, "step-200"), "same", 2)
        assert (later.judge_scores.tolist(), later.usage.calls) == ([8, 8], 2)
        # The endpoint now reports another model in its replies.
        new.set_plan(says(5, "m-2"))
        assert scored(manager, "other", 2).judge_scores.tolist() == [5, 5]
        again = scored(manager, "same", 2)
        assert (again.judge_scores.tolist(), again.usage.calls) == ([5, 5], 2)
        assert scored(manager, "other", 2).usage.calls == 0
