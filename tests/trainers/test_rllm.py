"""The example's evaluator, called as rLLM's engine calls it.

rLLM 0.3.0.pre (9beb6e0, 2026-08-15) is not on PyPI: its result types and data classes are copied here,
with the fields that the example and `AgentFlowEngine._finish_episode` use.
"""

import asyncio
import math
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import Enum
from types import ModuleType
from typing import Any

import pytest
from pydantic import BaseModel, Field
from storms import authors, splits, stormy
from trainer_backend import Backend, load_example, score_of

from oyer.config.reward import RewardConfig


@dataclass
class Signal:
    """rllm/eval/types.py."""

    name: str
    value: float
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass
class EvalOutput:
    """rllm/eval/types.py."""

    reward: float
    is_correct: bool
    signals: list[Signal] = field(default_factory=list)
    metadata: dict[str, Any] = field(default_factory=dict)


class TerminationReason(Enum):
    """rllm/workflows/workflow.py."""

    MAX_RESPONSE_LENGTH_EXCEEDED = "max_response_length_exceeded"
    ENV_DONE = "env_done"
    ERROR = "error"


@dataclass
class Task:
    """rllm/types.py."""

    id: str
    instruction: str
    metadata: dict[str, Any] = field(default_factory=dict)


class Step(BaseModel):
    """rllm/types.py."""

    response_ids: list[int] = Field(default_factory=list)
    chat_completions: list[dict[str, Any]] = Field(default_factory=list)


class Trajectory(BaseModel):
    """rllm/types.py."""

    steps: list[Step] = Field(default_factory=list)
    reward: float | None = None
    signals: dict[str, float] = Field(default_factory=dict)


class Episode(BaseModel):
    """rllm/types.py."""

    id: str
    termination_reason: Any = None
    is_correct: bool = False
    trajectories: list[Trajectory] = Field(default_factory=list)
    metrics: dict[str, Any] = Field(default_factory=dict)


async def finished(evaluator: Any, task: Task, episode: Episode, pool: Any) -> Episode:
    """AgentFlowEngine._finish_episode, from the evaluator on."""
    loop = asyncio.get_running_loop()
    output: EvalOutput = await loop.run_in_executor(pool, evaluator.evaluate, task, episode)
    for one in episode.trajectories:
        if one.reward is None:
            one.reward = output.reward
        if not one.signals:
            one.signals = {signal.name: signal.value for signal in output.signals}
    episode.is_correct = output.is_correct
    episode.metrics.update(output.metadata)
    for signal in output.signals:
        episode.metrics[signal.name] = signal.value
    if episode.termination_reason is None:
        episode.termination_reason = TerminationReason.ENV_DONE
    return episode


QUESTION = {"role": "user", "content": "What?"}

Evaluate = Callable[..., list[Episode]]


@pytest.fixture
def evaluate(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> Evaluate:
    for name, exported in (
        ("rllm", {}),
        ("rllm.eval", {}),
        ("rllm.eval.types", {"EvalOutput": EvalOutput, "Signal": Signal}),
        ("rllm.workflows", {}),
        ("rllm.workflows.workflow", {"TerminationReason": TerminationReason}),
    ):
        module = ModuleType(name)
        vars(module).update(exported)
        monkeypatch.setitem(sys.modules, name, module)

    def run(
        chats: list[list[dict[str, Any]]], length: str | None = None, **options: Any
    ) -> list[Episode]:
        changes = {} if length is None else {"length": {"method": length, "unit": "chars"}}
        monkeypatch.setenv("OYER_CONFIG", str(backend.file("rllm.yaml", **changes)))
        evaluator = load_example("rllm_evaluator").JudgedEvaluator(**options)
        task = Task("t1", "What?", {"ground_truth": "42"})
        episodes = [
            Episode(
                id=f"t1:{i}",
                trajectories=[Trajectory(steps=[Step(chat_completions=chat, response_ids=[1])])],
            )
            for i, chat in enumerate(chats)
        ]

        async def all_of() -> list[Episode]:
            with ThreadPoolExecutor(len(chats)) as pool:
                return await asyncio.gather(
                    *(finished(evaluator, task, episode, pool) for episode in episodes)
                )

        return asyncio.run(all_of())

    return run


def replies(*texts: str) -> list[list[dict[str, Any]]]:
    return [[QUESTION, {"role": "assistant", "content": text}] for text in texts]


def test_an_episode_has_reward_and_signals_and_a_missing_one_the_mean(
    backend: Backend, evaluate: Evaluate
) -> None:
    backend.judge.set_plan(stormy)
    episodes = evaluate(replies("first", "second", "storm"), group_size=3)
    scores = [0.1 * score_of(text) for text in ("first", "second")]
    rewards = [one.trajectories[0].reward for one in episodes]
    assert rewards == pytest.approx([*scores, sum(scores) / 2])
    assert [one.termination_reason.value for one in episodes] == ["env_done", "env_done", "error"]
    signals = [one.trajectories[0].signals for one in episodes]
    assert signals[0]["oyer/q"] == score_of("first")
    assert [one["oyer/missing"] for one in signals] == [0, 0, 1]
    assert all(math.isfinite(value) for one in signals for value in one.values())


def test_nobody_waits_for_an_episode_that_cannot_be_read(
    backend: Backend, evaluate: Evaluate, caplog: pytest.LogCaptureFixture
) -> None:
    """The others are compared with each other at once; a timeout would log a warning."""
    unreadable = "lone surrogate \ud800"
    episodes = evaluate(
        replies(unreadable, "so", "much"), group_size=3, run="rllm-bad", length="median_band"
    )
    assert episodes[0].termination_reason is TerminationReason.ERROR
    for text, episode in zip(("so", "much"), episodes[1:], strict=True):
        assert episode.trajectories[0].signals["oyer/q"] == score_of(text)
        assert episode.trajectories[0].signals["oyer/length_penalty_present"] == 1
    assert not [one for one in caplog.records if one.levelname == "WARNING"]


def test_a_validation_of_one_episode_per_task_does_not_wait(
    backend: Backend, evaluate: Evaluate
) -> None:
    (episode,) = evaluate(replies("held out"), split="eval", run="rllm-eval")
    assert episode.trajectories[0].reward == pytest.approx(0.1 * score_of("held out"))
    assert splits(backend, "rllm-eval").keys() == {"eval"}


def test_tool_results_have_their_role(backend: Backend, evaluate: Evaluate) -> None:
    chat = [
        QUESTION,
        {"role": "assistant", "content": "search it"},
        {"role": "tool", "content": "SECRET PAGE"},
        {"role": "assistant", "content": "it is 42", "reasoning": "The page says so."},
    ]
    steps = [Step(chat_completions=chat[:2]), Step(chat_completions=chat)]
    example_chat = load_example("rllm_evaluator").rollout(
        Task("t1", "What?"),
        Episode(id="t1:0", trajectories=[Trajectory(steps=steps)]),
        RewardConfig(),
    )
    assert [one["role"] for one in example_chat.response] == ["assistant", "tool", "assistant"]
    assert example_chat.prompt == [QUESTION]
    evaluate([chat])
    (request,) = backend.judge.requests
    assert authors(request, "The page says so.") == ["assistant"]
