"""The example for ms-swift, on stand-ins of the two names that it takes from `swift.rewards`.

ms-swift itself runs it in `tests/trainers`.
"""

import asyncio
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from oyer.demo.judge_server import JudgeServer
from oyer.demo.responses import named
from oyer.manager import InvalidRollout, RewardManager
from tests.support.paths import ROOT
from tests.support.scripted_backend import Running, user_text

EXAMPLE = ROOT / "examples" / "ms_swift.py"


class AsyncORM:
    """ms-swift's base class of asynchronous rewards (`swift/rewards/orm.py`)."""

    def __init__(self, args: Any = None, **kwargs: Any) -> None:
        self.args = args


@pytest.fixture(scope="module")
def backend_changes() -> dict[str, Any]:
    return {"length": {"method": "median_band"}}


@pytest.fixture
def reward(
    backend: RewardManager, judge: JudgeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Any:
    """Load the plugin as `--external_plugins` does, and make what `--reward_funcs oyer` names."""
    file = tmp_path / "oyer.yaml"
    file.write_text(json.dumps(backend.config.model_dump(mode="json")))
    monkeypatch.setenv("OYER_CONFIG", str(file))
    rewards = ModuleType("swift.rewards")
    rewards.AsyncORM, rewards.orms = AsyncORM, {}  # type: ignore[attr-defined]  # a stand-in
    monkeypatch.setitem(sys.modules, "swift", ModuleType("swift"))
    monkeypatch.setitem(sys.modules, "swift.rewards", rewards)
    spec = importlib.util.spec_from_file_location("ms_swift", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    return rewards.orms["oyer"](args=SimpleNamespace(num_generations=4))


def step(reward: Any, tag: str, lengths: list[int]) -> list[float | None]:
    """Run one step on an event loop of its own, as ms-swift does."""
    completions = [f"{tag} {i}." for i in range(len(lengths))]
    messages = [
        [{"role": "user", "content": f"{tag}?"}, {"role": "assistant", "content": text}]
        for text in completions
    ]
    ids = [[[0] * (n - 2), [0] * 2] for n in lengths]
    given = {"messages": messages, "response_token_ids": ids, "solution": ["42"] * len(lengths)}
    result: list[float | None] = asyncio.run(reward(completions, **given))
    return result


def test_every_step_has_an_event_loop_of_its_own(reward: Any, running: Running) -> None:
    for number in range(3):
        rewards = step(reward, f"step {number}", [10, 10, 10, 16])
        assert rewards == pytest.approx([0.5, 0.5, 0.5, -0.5])
    text = user_text(running[1].requests[0])
    assert "step 0?" in text
    # The completion is judged, and is not part of the prompt.
    assert sum(text.count(f"step 0 {i}.") for i in range(4)) == 1


def test_a_completion_without_a_score_is_none(reward: Any, running: Running) -> None:
    running[1].set_plan(named("rate_limited", retry_after_s=0))
    assert step(reward, "storm", [10, 10]) == [None, None]


def test_token_ids_that_a_scheduler_left_out_are_no_length_of_0(reward: Any) -> None:
    messages = [[{"role": "user", "content": "?"}, {"role": "assistant", "content": "a."}]] * 2
    with pytest.raises(InvalidRollout, match="response_tokens"):
        asyncio.run(reward(["a."] * 2, messages=messages, response_token_ids=[[], []]))
