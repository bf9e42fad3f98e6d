"""verifiers' own scoring of the example's task."""

import asyncio
from types import ModuleType
from typing import Any

import pytest
import verifiers.v1 as vf
from trainer_backend import Backend, load_example, score_of

from oyer.demo.responses import named


def scored(example: ModuleType, reply: str) -> Any:
    task = example.JudgedTask(vf.TaskData(prompt="What?"))
    trace = vf.Trace.model_construct(root_reply=reply, rewards={}, metrics={}, nodes=[])
    asyncio.run(task.score(trace))
    return trace


def test_a_reply_has_its_reward(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OYER_CONFIG", str(backend.file("verifiers.yaml")))
    trace = scored(load_example("verifiers_task"), "verified")
    assert trace.reward == pytest.approx(0.1 * score_of("verified"))


@pytest.mark.parametrize(
    ("failure", "status"), [("rate_limited", "rate_limited"), ("dead", "unavailable")]
)
def test_a_failing_judge_is_an_error_of_the_task(
    backend: Backend, monkeypatch: pytest.MonkeyPatch, failure: str, status: str
) -> None:
    backend.judge.set_plan(named("rate_limited", retry_after_s=0))
    file = backend.file("verifiers.yaml", **backend.changes(failure))
    monkeypatch.setenv("OYER_CONFIG", str(file))
    with pytest.raises(vf.TaskError, match=status):
        scored(load_example("verifiers_task"), f"verifiers {failure}")
