"""The embedded backend works without torch, in every process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from oyer.local import worker_commands
from oyer.local.worker_commands import devices
from oyer.manager import RewardManager, Rollout


@pytest.fixture
def no_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An environment in which `import torch` fails, in this process's children too."""
    for name in ("torch", "transformers"):
        text = f"raise ModuleNotFoundError('{name} is not installed', name='{name}')"
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], env=os.environ, capture_output=True, text=True, check=False
    )


def rollouts() -> list[Rollout]:
    return [
        Rollout(prompt="p", response="r", group_id="g", base_score=1.0, response_tokens=n)
        for n in (100, 100, 100, 400)
    ]


def test_a_local_backend_computes_length_terms(no_torch: Path) -> None:
    parts: dict[str, str] = {}
    store = {"url": f"sqlite:///{no_torch}/record.db"}
    config = {"length": [{"method": "median_band"}], "store": store}
    with RewardManager.local(config, judge_processes=1, report=parts.__setitem__) as manager:
        batch = manager.submit(rollouts()).result(timeout_s=60)
    assert parts.keys() == {"redis", "store", "judge-1", "length-1", "combine-1"}
    assert parts["length-1"].endswith("on cpu")
    assert batch.terms["length_penalty"].tolist() == [0.0, 0.0, 0.0, -1.0]


def test_no_length_worker_starts_where_no_method_is_configured(tmp_path: Path) -> None:
    parts: dict[str, str] = {}
    config = {
        "endpoints": {"e": {"base_url": "http://127.0.0.1:1/v1"}},
        "judges": [{"name": "q", "endpoint": "e", "model": "m", "rubric": "reasoning_en"}],
        "length": [],
        "store": {"url": f"sqlite:///{tmp_path}/record.db"},
    }
    with RewardManager.local(config, judge_processes=1, report=parts.__setitem__):
        pass
    assert parts.keys() == {"redis", "store", "judge-1", "combine-1"}


@pytest.mark.usefixtures("no_torch")
def test_methods_are_evaluated_and_drawn() -> None:
    code = (
        "from oyer.tasks.lengths import evaluate; import oyer.tasks.length\n"
        "inputs = {'lengths': [1, 1, 1, 9], 'group_ids': [0, 0, 0, 0]}\n"
        "print(evaluate('median_band', {}, inputs))"
    )
    done = python("-c", code)
    assert done.stderr == ""
    assert json.loads(done.stdout) == [0.0, 0.0, 0.0, -1.0]
    drawn = python("-m", "oyer", "length", "plot", "median_band")
    assert (drawn.stderr, drawn.returncode) == ("", 0)
    assert drawn.stdout.startswith("median_band: added to the reward")


def test_a_host_with_gpus_and_without_torch_has_one_length_worker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(worker_commands, "visible_gpus", lambda: 4)
    assert devices() == ["cuda:0", "cuda:1", "cuda:2", "cuda:3"]
    monkeypatch.setattr(worker_commands, "find_spec", lambda name: None)
    assert devices() == [None]
