"""AReaL's own resolver and executor with the example's workflow."""

import logging
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from areal.api import ModelResponse
from areal.api.cli_args import GenerationHyperparameters, InferenceEngineConfig
from areal.infra.remote_inf_engine import GroupedRolloutWorkflow, RemoteInfEngine
from areal.infra.workflow_executor import WorkflowExecutor
from storms import splits, stormy
from trainer_backend import ROOT, Backend, score_of
from transformers import AutoTokenizer

from oyer.demo.responses import named

VERSION = 3
"""Of the policy's weights."""

HANG_S = 60
"""A rollout that takes this long hangs, in seconds."""

Episodes = Callable[..., list[Any]]


@pytest.fixture
def episodes(
    tokenizer_folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> Episodes:
    """Run the workflow that examples/README.md names, once for each text to be generated."""
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    line = re.search(r'`workflow="([\w.]+)"`', (ROOT / "examples" / "README.md").read_text())
    assert line is not None
    name = line[1]

    class Engine:
        def get_version(self) -> int:
            return 0

        async def agenerate(self, request: Any) -> ModelResponse:
            text = texts.pop(0)
            ids = [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]
            return ModelResponse(
                input_tokens=request.input_ids,
                output_tokens=ids,
                output_logprobs=[0.0] * len(ids),
                output_versions=[VERSION] * len(ids),
                stop_reason="length" if "cut" in text else "stop",
            )

    texts: list[str] = []

    def run(
        config: Path,
        generated: list[str],
        group_size: int = 1,
        is_eval: bool = False,
        **columns: Any,
    ) -> list[Any]:
        texts.extend(generated)
        monkeypatch.setenv("OYER_CONFIG", str(config))
        monkeypatch.syspath_prepend(ROOT / "examples")
        # The example reads its configuration when it is imported.
        monkeypatch.delitem(sys.modules, name.partition(".")[0], raising=False)
        options = {
            "gconfig": GenerationHyperparameters(max_new_tokens=16),
            "tokenizer": tokenizer,
            "get_input_ids_fn": lambda *_: tokenizer("What?")["input_ids"],
        }
        logger = logging.getLogger("rollouts")
        # Importing AReaL takes the root's handlers away.
        logger.addHandler(caplog.handler)
        workflow = RemoteInfEngine._resolve_workflow(SimpleNamespace(logger=logger), name, options)
        # AReaL's `getLogger` makes loggers that `logging` does not know.
        sys.modules[name.partition(".")[0]].log.addHandler(caplog.handler)
        if group_size > 1:
            workflow = GroupedRolloutWorkflow(workflow, group_size, logger)
        executor = WorkflowExecutor(InferenceEngineConfig(consumer_batch_size=8), Engine())
        executor.initialize(logger=logger, train_data_parallel_size=1)
        try:
            question = [{"role": "user", "content": "What?"}]
            row = {"messages": question, "answer": "42", **columns}
            tasks = [
                executor.submit(row, workflow, is_eval=is_eval)
                for _ in range(0, len(generated), group_size)
            ]
            return [executor.wait_for_task(task, HANG_S) for task in tasks]
        finally:
            executor.destroy()

    return run


def test_an_episode_has_its_reward(backend: Backend, episodes: Episodes) -> None:
    (result,) = episodes(backend.file("areal.yaml"), ["awaited"])
    assert result["rewards"].tolist() == [pytest.approx(0.1 * score_of("awaited"))]
    # The token that ends the text is no part of what is judged.
    assert backend.recorded("areal") == {"awaited": pytest.approx(0.1 * score_of("awaited"))}


def test_the_episodes_of_a_task_are_compared(backend: Backend, episodes: Episodes) -> None:
    file = backend.file("areal.yaml", length={"method": "median_band", "unit": "chars"})
    texts = [f"{'x' * n}{i}" for i, n in enumerate((10, 10, 10, 16))]
    (result,) = episodes(file, texts, group_size=4)
    alone = [0.1 * score_of(text) for text in texts]
    gaps = [got - lone for got, lone in zip(result["rewards"].tolist(), alone, strict=True)]
    assert [round(gap, 3) == 0 for gap in gaps] == [True, True, True, False]


def test_an_episode_without_a_reward_leaves_its_siblings(
    backend: Backend, episodes: Episodes
) -> None:
    backend.judge.set_plan(stormy)
    (result,) = episodes(backend.file("areal.yaml"), ["calm", "storm", "mild"], group_size=3)
    rewards = [0.1 * score_of(text) for text in ("calm", "mild")]
    assert result["rewards"].tolist() == pytest.approx(rewards)


def test_a_completion_that_was_cut_is_marked(backend: Backend, episodes: Episodes) -> None:
    length = {"method": "median_band", "unit": "chars", "truncated": "mask"}
    file = backend.file("areal.yaml", length=length)
    (result,) = episodes(file, ["whole", "cut off", "whole2"], group_size=3)
    assert len(result["rewards"]) == 2


def test_evaluation_and_step_are_on_record(backend: Backend, episodes: Episodes) -> None:
    episodes(backend.file("areal.yaml"), ["held out"], is_eval=True)
    assert splits(backend, "areal")["eval"] == {VERSION}


def test_what_a_judge_reads_of_the_row_reaches_it(backend: Backend, episodes: Episodes) -> None:
    rubric = "Score it.\n---user---\n{metadata.topic}\n{reference}\n{response}"
    judge = {"name": "q", "endpoint": "fake", "model": "m", "rubric": rubric}
    (result,) = episodes(
        backend.file("areal.yaml", judges=[judge]), ["of a row"], answer=[42], topic="t" * 300
    )
    assert len(result["rewards"]) == 1
    (request,) = backend.judge.requests
    shown = dict(request.messages())["user"]
    assert "t" * 300 in shown
    assert "[42]" in shown


@pytest.mark.parametrize(
    ("failure", "status"), [("rate_limited", "rate_limited"), ("dead", "unavailable")]
)
def test_with_a_failing_judge_areal_rejects_the_rollout(
    backend: Backend,
    episodes: Episodes,
    caplog: pytest.LogCaptureFixture,
    failure: str,
    status: str,
) -> None:
    backend.judge.set_plan(named("rate_limited", retry_after_s=0))
    file = backend.file("areal.yaml", **backend.changes(failure))
    texts = [f"areal {failure} {i}" for i in range(2)]
    assert episodes(file, texts) == [None, None]
    assert f"rejected: no reward ({status})" in caplog.text
