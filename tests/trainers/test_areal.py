"""AReaL's own workflow with the example's reward."""

import asyncio
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from areal.api import ModelResponse
from areal.api.cli_args import GenerationHyperparameters
from trainer_backend import Backend, load_example, score_of
from transformers import AutoTokenizer

from oyer.demo.actions import named
from oyer.manager import MissingScores


def episode(example: ModuleType, tokenizer: Any, text: str) -> Any:
    """Run one episode, with an engine that generates `text`."""

    class Engine:
        async def agenerate(self, request: Any) -> ModelResponse:
            ids = tokenizer(text)["input_ids"]
            return ModelResponse(
                input_tokens=request.input_ids,
                output_tokens=ids,
                output_logprobs=[0.0] * len(ids),
                output_versions=[0] * len(ids),
            )

    workflow = example.JudgedWorkflow(
        gconfig=GenerationHyperparameters(max_new_tokens=16),
        tokenizer=tokenizer,
        get_input_ids_fn=lambda messages, tokenizer, thinking: tokenizer("What?")["input_ids"],
    )
    data = {"messages": [{"role": "user", "content": "What?"}], "answer": "42"}
    return asyncio.run(workflow.arun_episode(Engine(), data))


def test_an_episode_has_its_reward(
    backend: Backend, tokenizer_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OYER_CONFIG", str(backend.file("areal.yaml")))
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    result = episode(load_example("areal_workflow"), tokenizer, "awaited")
    assert result["rewards"].tolist() == [pytest.approx(0.1 * score_of("awaited"))]
    assert backend.recorded("areal") == {"awaited": pytest.approx(0.1 * score_of("awaited"))}


@pytest.mark.parametrize(
    ("failure", "status"), [("rate_limited", "rate_limited"), ("dead", "unavailable")]
)
def test_a_failing_judge_raises_and_areal_rejects_the_rollout(
    backend: Backend,
    tokenizer_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    failure: str,
    status: str,
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    backend.judge.set_plan(named("rate_limited", retry_after_s=0))
    file = backend.file("areal.yaml", **backend.changes(failure))
    monkeypatch.setenv("OYER_CONFIG", str(file))
    with pytest.raises(MissingScores, match=status):
        episode(load_example("areal_workflow"), tokenizer, f"areal {failure}")
