"""Oyer's workers in their own environment, a scripted judge, and a tiny model, for the trainers'."""

import json
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from trainer_backend import WORKERS_PYTHON, Backend, judged, random_llama, score_of

from oyer.demo.judge_server import JudgeServer
from oyer.demo.responses import Action


@pytest.fixture(scope="session")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    """Run `oyer up` with the interpreter that has the workers."""
    folder = tmp_path_factory.mktemp("up")
    with JudgeServer() as judge:
        config = {
            "endpoints": {
                "fake": {"base_url": judge.base_url, "max_attempts": 2, "timeout_s": 5},
                "dead": {"base_url": "http://127.0.0.1:9/v1", "max_attempts": 1},
            },
            "judges": [{"name": "q", "endpoint": "fake", "model": "m", "reasks": 0}],
            "store": {"url": f"sqlite:///{folder / 'record.db'}"},
        }
        backend = Backend(folder, config, judge)
        command = [WORKERS_PYTHON, "-m", "oyer.cli", "up", "--json", "--judge-processes", "1"]
        command += ["--config", str(backend.file())]
        with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                events = map(json.loads, process.stdout)
                ready = next(event for event in events if event["event"] == "ready")
                state = json.loads(Path(ready["state_file"]).read_text())
                config["broker"] = {"url": state["broker_url"]}
                yield backend
            finally:
                process.send_signal(signal.SIGTERM)


@pytest.fixture
def backend(up: Backend) -> Backend:
    """The backend, with a judge that gives every response a score of its own."""
    up.judge.set_plan(lambda arrival: Action(text=f"Final score: {score_of(judged(arrival))}"))
    up.judge.reset()
    return up


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One token a printable character, made here: nothing is downloaded."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    # "Ġ" is how byte-level tokenizers write the space.
    alphabet = ["Ġ", *map(chr, range(ord("!"), ord("~") + 1))]
    vocabulary = {token: i for i, token in enumerate(["<pad>", "<eos>", *alphabet])}
    inner = Tokenizer(models.BPE(vocabulary, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token="<eos>"
    )
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def model(tokenizer_folder: Path) -> Callable[[], Any]:
    """Make a random Llama of some thousand weights."""
    from transformers import AutoTokenizer

    return lambda: random_llama(AutoTokenizer.from_pretrained(tokenizer_folder))
