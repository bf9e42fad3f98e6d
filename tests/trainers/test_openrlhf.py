"""OpenRLHF's own executor: against `oyer serve`, and with Oyer's file."""

import asyncio
import importlib.metadata
import importlib.util
import json
import logging
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from storms import authors, sent, stormy
from trainer_backend import ROOT, WORKERS_PYTHON, Backend, load_example, score_of

from oyer.demo.responses import Action, named

FILE = ROOT / "examples" / "openrlhf_reward.py"


def openrlhf_file(name: str) -> Path:
    """Find a file of the installed package."""
    files = importlib.metadata.files("openrlhf") or []
    (path,) = [Path(str(file.locate())) for file in files if str(file) == name]
    return path


@pytest.fixture(scope="module")
def agent() -> ModuleType:
    """Load `openrlhf/utils/agent.py` alone: the package itself wants GPU builds."""
    logs = ModuleType("openrlhf.utils.logging_utils")
    logs.init_logger = logging.getLogger  # type: ignore[attr-defined]  # all that it imports
    names = {"openrlhf": ModuleType("openrlhf"), "openrlhf.utils": ModuleType("openrlhf.utils")}
    sys.modules.update({**names, "openrlhf.utils.logging_utils": logs})
    path = openrlhf_file("openrlhf/utils/agent.py")
    spec = importlib.util.spec_from_file_location("openrlhf.utils.agent", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def url(up: Backend) -> Iterator[str]:
    """`oyer serve` beside the workers."""
    command = [WORKERS_PYTHON, "-m", "oyer.cli", "serve", "--json", "--port", "0"]
    command += ["--config", str(up.file("serve.yaml"))]
    with subprocess.Popen(command, cwd=up.folder, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield json.loads(process.stdout.readline())["url"] + "/get_reward"
        finally:
            process.terminate()


class Tokens:
    """One id per byte."""

    def __call__(self, text: str, **_: Any) -> dict[str, Any]:
        import torch

        return {"input_ids": torch.tensor([list(text.encode())])}

    def decode(self, ids: list[int], skip_special_tokens: bool) -> str:
        """Join the bytes."""
        return bytes(ids).decode()


class Engine:
    """Generates what the test says: one text a turn, the last one again at the end."""

    def __init__(self, *texts: str) -> None:
        self._texts = [*texts]

    async def generate(self, ids: list[int], params: Any, multi_modal_data: Any = None) -> Any:
        """Answer a prompt."""
        text = self._texts.pop(0) if len(self._texts) > 1 else self._texts[0]
        ids = list(text.encode())
        output = SimpleNamespace(token_ids=ids, text=text, finish_reason="stop", logprobs=None)
        return SimpleNamespace(outputs=[output])


def executed(
    agent: ModuleType, endpoint: str, responses: list[str], prompt: str = "What? "
) -> list[dict[str, Any]]:
    executor = agent.SingleTurnAgentExecutor(endpoint)
    params = SimpleNamespace(max_tokens=32, logprobs=None)

    async def main() -> list[Any]:
        calls = (
            executor.execute(prompt, "42", params, 512, Tokens(), Engine(text))
            for text in responses
        )
        return await asyncio.gather(*calls)

    return asyncio.run(main())


def test_its_client_gets_each_reward(agent: ModuleType, url: str, backend: Backend) -> None:
    responses = [f"answer {i}" for i in range(16)]
    outputs = executed(agent, url, responses)
    expected = [[pytest.approx(0.1 * score_of(text))] for text in responses]
    assert [output["reward"] for output in outputs] == expected
    assert [output["scores"] for output in outputs] == [
        [pytest.approx((score_of(text) - 1) / 9)] for text in responses
    ]
    assert all(output["extra_logs"]["oyer_missing"] == [0.0] for output in outputs)
    assert len(backend.judge.requests) == 16


def test_a_failing_judge_is_a_number_and_never_none(
    agent: ModuleType, url: str, backend: Backend
) -> None:
    """None would end the run later, far from its cause."""
    (known,) = executed(agent, url, ["judged"], prompt="Stormy? ")
    backend.judge.set_plan(named("rate_limited", retry_after_s=0))
    outputs = executed(agent, url, ["storm 1", "storm 2"], prompt="Stormy? ")
    # The mean of the prompt's rewards so far.
    assert [output["reward"] for output in outputs] == [pytest.approx(known["reward"])] * 2
    assert all(output["extra_logs"]["oyer_missing"] == [1.0] for output in outputs)


@pytest.mark.parametrize("failure", ["rate_limited", "dead"])
def test_with_the_file_a_failing_judge_is_a_number_too(
    agent: ModuleType, backend: Backend, monkeypatch: pytest.MonkeyPatch, failure: str
) -> None:
    backend.judge.set_plan(named("rate_limited", retry_after_s=0))
    monkeypatch.setenv("OYER_CONFIG", str(backend.file("file.yaml", **backend.changes(failure))))
    (output,) = executed(agent, str(FILE), [f"{failure}: 42"])
    assert output["reward"] == [0.0]
    assert output["extra_logs"]["oyer_missing"] == [1.0]


def test_the_option_of_the_example_is_its_own() -> None:
    """The package itself wants GPU builds, so its command line is read and not run."""
    options = openrlhf_file("openrlhf/cli/train_ppo_ray.py").read_text()
    words = shlex.split((ROOT / "examples" / "openrlhf.sh").read_text(), comments=True)
    (option,) = [word for word in words if word.startswith("--reward")]
    assert f'parser.add_argument("{option}"' in options


def test_its_file_loader_takes_the_example(
    agent: ModuleType, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OYER_CONFIG", str(backend.file("file.yaml")))
    (right, wrong) = executed(agent, str(FILE), ["It is 42", "It is 41"])
    assert right["reward"] == [pytest.approx(1 + 0.1 * score_of("It is 42"))]
    assert wrong["reward"] == [0.0]


def run_agents(backend: Backend, texts: list[tuple[str, str]], prompt: str) -> list[dict[str, Any]]:
    """Run the example's agents, one per pair of turns; all are of one group."""
    executor = load_example("openrlhf_agent").AgentExecutor()

    async def main() -> list[Any]:
        params = [SimpleNamespace(max_tokens=64, logprobs=None) for _ in texts]
        calls = (
            executor.execute(prompt, "42", one, 512, Tokens(), Engine(*pair))
            for one, pair in zip(params, texts, strict=True)
        )
        return await asyncio.gather(*calls, return_exceptions=True)

    return asyncio.run(main())


@pytest.fixture
def agents(backend: Backend, agent: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The example reads its settings when it is imported."""
    monkeypatch.setitem(sys.modules, "openrlhf.utils.agent", agent)

    def run(texts: list[tuple[str, str]], prompt: str) -> list[dict[str, Any]]:
        file = backend.file("agents.yaml", length={"method": "median_band"})
        monkeypatch.setenv("OYER_CONFIG", str(file))
        monkeypatch.setenv("N_SAMPLES_PER_PROMPT", str(len(texts)))
        return run_agents(backend, texts, prompt)

    return run


def test_an_agents_trajectory_is_judged_with_roles_and_compared(
    backend: Backend, agents: Any
) -> None:
    backend.judge.set_plan(Action(text="Final score: 5"))
    texts = [("first", f"answer {i}") for i in range(3)] + [("first", "answer 3" + "!" * 20)]
    outputs = agents(texts, "Agents? ")
    # The environment's words are no part of the length.
    assert [one["reward"] for one in outputs] == pytest.approx([0.5, 0.5, 0.5, -0.5])
    assert [one["extra_logs"]["oyer/missing"] for one in outputs] == [0.0] * 4
    (request,) = [one for one in backend.judge.requests if "answer 0" in sent(one)]
    assert authors(request, "answer 0") == ["assistant"]
    assert authors(request, "Check it") == ["tool"]


def test_an_agent_that_fails_or_is_not_judged_leaves_its_siblings(
    backend: Backend, agents: Any
) -> None:
    backend.judge.set_plan(stormy)
    texts = [("a", "good"), ("a", "storm"), ("\ud800", "unreadable")]
    good, storm, failed = agents(texts, "Failing? ")
    assert good["extra_logs"]["oyer/missing"] == 0
    assert storm["reward"] == pytest.approx(good["reward"])
    assert storm["extra_logs"]["oyer/missing"] == 1
    assert isinstance(failed, UnicodeEncodeError)
