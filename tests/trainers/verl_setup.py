"""Ray, verl's configuration and its batches for the tests of the adapter."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch
from omegaconf import OmegaConf
from tensordict import TensorDict
from transformers import AutoTokenizer
from verl import DataProto

PROMPT_WIDTH = 16


@pytest.fixture(scope="module", autouse=True)
def ray_on_loopback() -> Iterator[None]:
    # Alone on loopback; with authentication, Ray would leave a token in the home folder.
    os.environ["RAY_AUTH_MODE"] = "disabled"
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="module", name="score_file")
def written_score_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A custom reward function, as verl loads it from a file."""
    file = tmp_path_factory.mktemp("score") / "score.py"
    file.write_text(
        "def compute_score(data_source, solution_str, ground_truth, extra_info, **_):\n"
        "    if 'result' in extra_info:\n"
        "        return extra_info['result']\n"
        "    return float(extra_info['base'])\n"
    )
    return file


def config_of(
    tokenizer: Path,
    score_file: Path,
    oyer: dict[str, Any],
    workers: int = 2,
    validated: int = 1,
    response_length: int = 1024,
) -> Any:
    return OmegaConf.create(
        {
            "actor_rollout_ref": {
                "model": {"tokenizer_path": str(tokenizer), "path": str(tokenizer)},
                "rollout": {
                    "n": 4,
                    "val_kwargs": {"n": validated},
                    "response_length": response_length,
                },
            },
            "reward": {
                "num_workers": workers,
                "reward_model": {"enable": False},
                "custom_reward_function": {"path": str(score_file), "name": "compute_score"},
                "reward_manager": {
                    "source": "importlib",
                    "name": "RewardManager",
                    "module": {"path": "pkg://oyer.manager.verl"},
                },
                "reward_kwargs": {"oyer": oyer},
            },
        }
    )


@pytest.fixture(scope="module", name="tokenizer")
def made_tokenizer(tokenizer_folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(tokenizer_folder)


def batch_of(
    tokenizer: Any, responses: list[str], lengths: list[int] | None = None, **columns: list[Any]
) -> DataProto:
    """Lay texts out as verl does; a response longer than its text is filled up with padding ids."""
    rows = len(responses)
    ids = [tokenizer(text)["input_ids"] for text in responses]
    lengths = lengths or [len(one) for one in ids]
    width = max(lengths) + 2
    prompt = tokenizer("What?")["input_ids"]
    batch = {
        "prompts": torch.full((rows, PROMPT_WIDTH), tokenizer.pad_token_id),
        "responses": torch.full((rows, width), tokenizer.pad_token_id),
        "attention_mask": torch.zeros(rows, PROMPT_WIDTH + width, dtype=torch.int64),
    }
    for i, (one, length) in enumerate(zip(ids, lengths, strict=True)):
        batch["prompts"][i, -len(prompt) :] = torch.tensor(prompt)
        batch["responses"][i, : min(length, len(one))] = torch.tensor(one[:length])
        batch["attention_mask"][i, PROMPT_WIDTH - len(prompt) : PROMPT_WIDTH + length] = 1
    given = {
        "data_source": ["toolcall"] * rows,
        "reward_model": [{"ground_truth": "42"}] * rows,
        "extra_info": [{"base": 1.0}] * rows,
        "uid": [f"g{i // 4}" for i in range(rows)],
        **columns,
    }
    return DataProto(
        batch=TensorDict(batch, batch_size=rows),
        non_tensor_batch={name: np.array(column, dtype=object) for name, column in given.items()},
    )
