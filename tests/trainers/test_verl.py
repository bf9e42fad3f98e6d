"""verl's own RewardLoopManager with Ray actors, and its DataProto through the replaced class."""

import json
import math
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
from trainer_backend import Backend, judged, score_of
from transformers import AutoTokenizer
from verl import DataProto
from verl.experimental.reward_loop.reward_loop import RewardLoopManager

from oyer.demo.actions import Action, named
from oyer.manager.verl import LengthPenaltyConfig, LengthPenaltyRewardManager

VECTORS = json.loads((Path(__file__).parents[1] / "data" / "median_band_vectors.json").read_text())
PROMPT_WIDTH = 16


@pytest.fixture(scope="module", autouse=True)
def _ray() -> Iterator[None]:
    # Alone on loopback; with authentication, Ray would leave a token in the home folder.
    os.environ["RAY_AUTH_MODE"] = "disabled"
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture
def score_file(tmp_path: Path) -> Path:
    """A custom reward function, as verl loads it from a file."""
    file = tmp_path / "score.py"
    file.write_text(
        "def compute_score(data_source, solution_str, ground_truth, extra_info, **_):\n"
        "    return float(extra_info['base'])\n"
    )
    return file


def config_of(tokenizer: Path, score_file: Path, oyer: dict[str, Any], workers: int = 2) -> Any:
    return OmegaConf.create(
        {
            "actor_rollout_ref": {
                "model": {"tokenizer_path": str(tokenizer), "path": str(tokenizer)},
                "rollout": {"n": 4},
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


def test_ray_actors_stream_to_one_backend(
    backend: Backend, tokenizer_folder: Path, score_file: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    responses = [f"answer {i}" for i in range(16)]
    data = batch_of(tokenizer, responses)
    oyer = {"config": str(backend.file()), "run": "verl-loop"}
    scored = RewardLoopManager(config_of(tokenizer_folder, score_file, oyer)).compute_rm_score(data)
    at = [len(text) - 1 for text in responses]
    expected = torch.tensor([1 + 0.1 * score_of(text) for text in responses])
    torch.testing.assert_close(scored.batch["rm_scores"][range(16), at], expected)
    assert scored.batch["rm_scores"].count_nonzero() == 16
    assert scored.non_tensor_batch["judge_status"].tolist() == ["scored"] * 16
    recorded = backend.recorded("verl-loop")
    assert recorded == {
        t: pytest.approx(float(e)) for t, e in zip(responses, expected, strict=True)
    }
    assert len(backend.judge.requests) == 16


@pytest.mark.parametrize("failure", ["rate_limited", "dead", "one of all", "late"])
def test_a_failing_judge_ends_no_step(
    backend: Backend, tokenizer_folder: Path, score_file: Path, failure: str
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    responses = [f"{failure} {i}" for i in range(8)]
    oyer: dict[str, Any] = {"config": str(backend.file()), "run": failure}
    if failure == "rate_limited":
        backend.judge.set_plan(named("rate_limited", retry_after_s=0))
    elif failure == "dead":
        judges = [{"name": "q", "endpoint": "dead", "model": "m"}]
        oyer["config"] = str(backend.file("dead.yaml", judges=judges))
    elif failure == "one of all":
        backend.judge.set_plan(
            {
                "rules": [{"when": {"matches": "one of all 3"}, "then": "not_found"}],
                "default": {"text": "Final score: 5"},
            }
        )
    else:
        backend.judge.set_plan(Action(hold=True))
        oyer["timeout_s"] = 1.0
    manager = RewardLoopManager(config_of(tokenizer_folder, score_file, oyer))
    scored = manager.compute_rm_score(batch_of(tokenizer, responses))
    backend.judge.release()
    rewards = scored.batch["rm_scores"].sum(-1)
    missing = [not there for there in scored.non_tensor_batch["has_reward"]]
    assert missing == [failure != "one of all" or i == 3 for i in range(8)]
    expected = torch.tensor([1.0 if gone else 1.5 for gone in missing])
    torch.testing.assert_close(rewards, expected)
    judged = scored.non_tensor_batch["judge_score"]
    assert [math.isnan(score) for score in judged] == missing


def test_the_replaced_class_reads_verl_s_own_data(backend: Backend, tokenizer_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    for number, vector in enumerate(VECTORS):
        names = [f"<{number}.{i}>" for i in range(len(vector["lengths"]))]
        scores = dict(zip(names, vector["judge_scores"], strict=True))
        backend.judge.set_plan(_by_name(scores))
        # A name needs room, and lengths in proportion have the same penalties.
        lengths = [8 * n for n in vector["lengths"]]
        assert min(lengths) >= len("<29.16>")
        data = batch_of(
            tokenizer,
            names,
            lengths,
            uid=vector["group_ids"],
            extra_info=[{"base": base} for base in vector["base_scores"]],
        )
        manager = LengthPenaltyRewardManager(
            tokenizer,
            num_examine=0,
            compute_score=lambda extra_info, **_: extra_info["base"],
            length_penalty_config=LengthPenaltyConfig(
                use_async_io=True,
                broker_url=backend.config["broker"]["url"],
                endpoint="fake",
                rubric="reasoning_en",
                reward_coefficient=vector["reward_coefficient"],
                **vector["params"],
            ),
        )
        rewards = manager(data)[range(len(names)), [n - 1 for n in lengths]]
        expected = torch.tensor(vector["expected_rewards"])
        torch.testing.assert_close(rewards, expected, atol=1e-5, rtol=0)


def _by_name(scores: dict[str, int]) -> Any:
    def plan(arrival: Any) -> Action:
        response = judged(arrival)
        return Action(text=f"Final score: {scores[response[: response.index('>') + 1]]}")

    return plan
