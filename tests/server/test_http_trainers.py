"""The examples of trainers that score over HTTP, with the data that these trainers pass."""

import asyncio
import importlib.util
import json
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from oyer.demo.judge_server import JudgeServer
from oyer.demo.responses import named
from oyer.manager import RewardManager
from tests.support.served_app import Served, served

EXAMPLES = Path(__file__).parents[2] / "examples"


def loaded(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Tokenizer:
    """One id is one character."""

    def batch_decode(self, rows: list[list[int]], skip_special_tokens: bool) -> list[str]:
        """Decode rows."""
        return ["".join(map(chr, row)) for row in rows]


def test_roll_gets_a_reward_per_row(backend: RewardManager, judge: JudgeServer) -> None:
    """ROLL's `DataProto` has `batch`, `non_tensor_batch` and `meta_info` (commit 8eb27cc)."""
    judge.set_plan(
        {
            "rules": [{"when": {"matches": "unjudged"}, "then": "not_found"}],
            "default": {"text": "Final score: 4"},
        }
    )
    texts = ["first", "unjudged", "other"]
    data = SimpleNamespace(
        batch={
            "prompts": [[ord(c) for c in "roll?"]] * 3,
            "responses": [[ord(c) for c in text] for text in texts],
            "response_mask": [[1] * len(text) for text in texts],
        },
        non_tensor_batch={"id": ["a", "a", "b"], "ground_truth": ["4", "4", "5"]},
        meta_info={"global_step": 3},
    )
    with served(backend) as server:
        url = f"http://127.0.0.1:{server.port}"
        rewards = loaded("roll_reward").rewards_of(data, Tokenizer(), url)
    assert rewards == pytest.approx([0.4, 0.4, 0.4])


def test_open_instruct_awaits_its_verifier(
    backend: RewardManager, judge: JudgeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its base class and result follow `ground_truth_utils.py` of commit e6c3044."""

    class VerifierFunction(ABC):
        def __init__(self, name: str, weight: float = 1.0, verifier_config: Any = None) -> None:
            self.name = name

        @abstractmethod
        def __call__(self, *args: Any) -> Any: ...

        async def async_call(
            self, ids: list[int], prediction: str, label: Any, query: str, state: Any = None
        ) -> Any:
            call = partial(self.__call__, ids, prediction, label, query, state)
            return await asyncio.get_running_loop().run_in_executor(None, call)

    @dataclass
    class VerificationResult:
        score: float
        cost: float = 0.0
        reasoning: str | None = None

    utils: Any = ModuleType("open_instruct.ground_truth_utils")
    utils.VerifierFunction, utils.VerificationResult = VerifierFunction, VerificationResult
    utils.VerifierConfig = object
    monkeypatch.setitem(sys.modules, "open_instruct", ModuleType("open_instruct"))
    monkeypatch.setitem(sys.modules, "open_instruct.ground_truth_utils", utils)
    verifier = loaded("open_instruct_verifier").OyerVerifier()
    with served(backend) as server:
        monkeypatch.setenv("OYER_URL", f"http://127.0.0.1:{server.port}")
        result = asyncio.run(verifier.async_call([1, 2], "four", "4", query="2+2?"))
        assert result.score == pytest.approx(0.5)
        assert verifier([1, 2], "four", "4", query="2+2?") == result
        judge.set_plan(named("not_found"))
        with pytest.raises(RuntimeError, match="no score"):
            asyncio.run(verifier.async_call([1, 2], "unjudged", "4", query="2+2?"))


def test_miles_gets_a_number(backend: RewardManager, judge: JudgeServer) -> None:
    """Its `remote_rm` posts three fields and reads JSON (commit 31f1ca9)."""
    payload = {"prompt": "miles?", "response": "four", "label": "4"}
    with served(backend) as server:
        assert posted(server, payload) == pytest.approx(0.5)


def posted(server: Served, payload: dict[str, Any]) -> Any:
    return json.loads(server.post("/rm", payload).body)
