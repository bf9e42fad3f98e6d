"""verifiers' own scoring of the example's task."""

import asyncio
import importlib.util
from types import ModuleType
from typing import Any

import pytest
import verifiers.v1 as vf
from trainer_backend import ROOT, Backend, score_of

from oyer.demo.actions import named


@pytest.fixture
def example(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The example, with the backend's configuration."""
    monkeypatch.setenv("OYER_CONFIG", str(backend.file("verifiers.yaml")))
    path = ROOT / "examples" / "verifiers_task.py"
    spec = importlib.util.spec_from_file_location("verifiers_task", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def scored(example: ModuleType, reply: str) -> Any:
    task = example.JudgedTask(vf.TaskData(prompt="What?"))
    trace = vf.Trace.model_construct(root_reply=reply, rewards={}, metrics={}, nodes=[])
    asyncio.run(task.score(trace))
    return trace


def test_a_reply_has_its_reward(example: ModuleType) -> None:
    trace = scored(example, "verified")
    assert trace.reward == pytest.approx(0.1 * score_of("verified"))


def test_a_failing_judge_is_an_error_of_the_task(example: ModuleType, backend: Backend) -> None:
    backend.judge.set_plan(named("rate_limited", retry_after_s=0))
    with pytest.raises(vf.TaskError, match="rate_limited"):
        scored(example, "limited")
