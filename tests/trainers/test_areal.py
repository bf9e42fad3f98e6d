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
from areal.infra.remote_inf_engine import RemoteInfEngine
from areal.infra.workflow_executor import WorkflowExecutor
from trainer_backend import ROOT, Backend, score_of
from transformers import AutoTokenizer

from oyer.demo.responses import named

HANG_S = 60
"""A rollout that takes this long hangs, in seconds."""

Episodes = Callable[[Path, list[str]], list[Any]]


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
            ids = [*tokenizer(texts.pop(0))["input_ids"], tokenizer.eos_token_id]
            return ModelResponse(
                input_tokens=request.input_ids,
                output_tokens=ids,
                output_logprobs=[0.0] * len(ids),
                output_versions=[0] * len(ids),
            )

    texts: list[str] = []

    def run(config: Path, generated: list[str]) -> list[Any]:
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
        executor = WorkflowExecutor(InferenceEngineConfig(consumer_batch_size=8), Engine())
        executor.initialize(logger=logger, train_data_parallel_size=1)
        try:
            row = {"messages": [{"role": "user", "content": "What?"}], "answer": "42"}
            tasks = [executor.submit(row, workflow) for _ in generated]
            return [executor.wait_for_task(task, HANG_S) for task in tasks]
        finally:
            executor.destroy()

    return run


def test_an_episode_has_its_reward(backend: Backend, episodes: Episodes) -> None:
    (result,) = episodes(backend.file("areal.yaml"), ["awaited"])
    assert result["rewards"].tolist() == [pytest.approx(0.1 * score_of("awaited"))]
    # The token that ends the text is no part of what is judged.
    assert backend.recorded("areal") == {"awaited": pytest.approx(0.1 * score_of("awaited"))}


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
    assert f"MissingScores: no reward ({status})" in caplog.text
