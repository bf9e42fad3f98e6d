"""TRL's own GRPOTrainer, some steps on the CPU."""

import asyncio
import json
import math
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import trl_training
from trainer_backend import ROOT, Backend, judged, score_of
from transformers import AutoTokenizer
from trl_training import Watched

from oyer.demo.responses import Action, named
from oyer.manager.trl.reward import RewardFunction, reward_function

STEPS = 3


@pytest.fixture
def train(
    model: Callable[[], Any], tokenizer_folder: Path, tmp_path: Path
) -> Callable[..., Watched]:
    def run(reward: Any, seed: int, rollout_func: Any = None) -> Watched:
        options = {"seed": seed, "max_steps": STEPS}
        return trl_training.train(
            model(), reward, tokenizer_folder, tmp_path, rollout_func, **options
        )

    return run


@pytest.mark.parametrize("kind", ["coroutine", "callable"])
def test_the_rewards_that_the_trainer_sees_are_those_on_record(
    backend: Backend, train: Callable[..., Watched], kind: str
) -> None:
    file = backend.file(length={"method": "median_band"})
    make = reward_function if kind == "coroutine" else RewardFunction
    run = f"trl-{kind}"
    trainer = train(make(file, num_generations=4, run=run), seed=len(run))
    recorded = backend.recorded(run)
    assert len(trainer.seen) >= STEPS * 4
    assert trainer.seen.keys() == recorded.keys()
    for text, reward in trainer.rewards.items():
        assert reward == pytest.approx(recorded[text], abs=1e-6)
        assert text.isspace() or reward <= 0.1 * score_of(text) + 1e-6
    logged = [entry for entry in trainer.state.log_history if "oyer/judge_score" in entry]
    assert len(logged) == STEPS
    assert all(entry["oyer/missing"] == 0 for entry in logged)


def test_the_example_trains(
    backend: Backend, model: Callable[[], Any], tokenizer_folder: Path, tmp_path: Path
) -> None:
    model().save_pretrained(tmp_path / "model")
    AutoTokenizer.from_pretrained(tokenizer_folder).save_pretrained(tmp_path / "model")
    data = tmp_path / "train.jsonl"
    # Every completion ends with the empty answer, so that each is judged.
    data.write_text(json.dumps({"prompt": "What is 6*7?", "answer": ""}) + "\n")
    command = [sys.executable, str(ROOT / "examples" / "trl_grpo.py"), "--steps", "1"]
    command += ["--config", str(backend.file(length={"method": "median_band"}))]
    command += ["--model", str(tmp_path / "model"), "--data", str(data), "--out", str(tmp_path)]
    subprocess.run(command, check=True, cwd=tmp_path)
    recorded = backend.recorded(tmp_path.name)
    assert len(recorded) == 8
    assert all(reward is not None for reward in recorded.values())


def test_a_row_without_a_score_has_no_advantage(
    backend: Backend, train: Callable[..., Watched]
) -> None:
    def plan(arrival: Any) -> Action:
        odd = score_of(judged(arrival)) % 2
        return named("not_found") if odd else Action(text="Final score: 8")

    backend.judge.set_plan(plan)
    trainer = train(reward_function(backend.file(), num_generations=4, run="trl-holes"), seed=1)
    missing = [text for text, reward in trainer.rewards.items() if math.isnan(reward)]
    assert 0 < len(missing) < len(trainer.seen)
    assert all(score_of(text) % 2 for text in missing)
    for parameter in trainer.model.parameters():
        assert torch.isfinite(parameter).all()


@pytest.mark.parametrize("failure", ["rate_limited", "dead"])
def test_a_failing_judge_ends_no_training(
    backend: Backend, train: Callable[..., Watched], failure: str
) -> None:
    backend.judge.set_plan(named("rate_limited", retry_after_s=0))
    file = backend.file(**backend.changes(failure))
    function = reward_function(file, num_generations=4, run=failure)
    trainer = train(function, seed=2)
    assert trainer.state.global_step == STEPS
    assert all(math.isnan(reward) for reward in trainer.rewards.values())
    for parameter in trainer.model.parameters():
        assert torch.isfinite(parameter).all()


def test_rewards_submitted_by_a_rollout_func_are_collected_after_it(
    backend: Backend, train: Callable[..., Watched]
) -> None:
    """Submit early, gather late: the tickets travel through the trainer as extra fields."""
    function: Any = reward_function(backend.file(), num_generations=4, run="trl-early")
    calls: list[int] = []

    def rollout(prompts: list[str], trainer: Any) -> dict[str, Any]:
        tokenizer = trainer.processing_class
        prompt_ids = [tokenizer(prompt)["input_ids"] for prompt in prompts]
        texts = [f"{prompt} {i}{trainer.state.global_step}" for i, prompt in enumerate(prompts)]
        completion_ids = [tokenizer(text)["input_ids"][-10:] for text in texts]
        completions = tokenizer.batch_decode(completion_ids, skip_special_tokens=True)
        tickets = asyncio.run(
            function.submit(prompts=prompts, completions=completions, completion_ids=completion_ids)
        )
        calls.append(len(tickets))
        return {
            "prompt_ids": prompt_ids,
            "completion_ids": completion_ids,
            "logprobs": [[0.0] * len(ids) for ids in completion_ids],
            "oyer_ticket": tickets,
        }

    trainer = train(function, seed=3, rollout_func=rollout)
    assert sum(calls) >= STEPS * 4
    assert trainer.seen.keys() == backend.recorded("trl-early").keys()
    assert len(backend.judge.requests) == len(trainer.seen)


def test_the_callable_scores_a_group_of_async_grpo(backend: Backend) -> None:
    """Its scorer is another process, and hands over neither trainer state nor logging."""
    from trl.experimental.async_grpo import async_rollout_worker as worker

    function = RewardFunction(backend.file(), num_generations=2, run="async-grpo")
    scorer = SimpleNamespace(
        reward_funcs=[pickle.loads(pickle.dumps(function))],
        reward_func_names=["oyer"],
        _env_reward_types=[],
        _provides_rollout_reward=False,
    )
    texts = ["async one", "async other"]
    sequence = SimpleNamespace(input_ids=[1], completion_mask=[1], old_log_probs=[0.0])
    group = worker.RolloutGroup(
        prompts=[[{"role": "user", "content": "What?"}]] * 2,
        reward_kwargs={"answer": ["42"] * 2},
        completions=[[{"role": "assistant", "content": text}] for text in texts],
        completions_ids=[[1] * 8] * 2,
        completions_sequences=[[sequence]] * 2,
        tool_call_counts=[0, 0],
        tool_failure_counts=[0, 0],
        model_version=0,
        group_id=0,
        env_rewards=[None, None],
        rollout_rewards=[None, None],
    )
    samples = asyncio.run(worker._AsyncRolloutLoop._score_group(scorer, group))
    rewards = [sample.metrics["rewards/oyer"] for sample in samples]
    assert rewards == pytest.approx([0.1 * score_of(text) for text in texts])
    backend.judge.set_plan(named("rate_limited", retry_after_s=0))
    group.completions[1][0]["content"] = "async limited"
    samples = asyncio.run(worker._AsyncRolloutLoop._score_group(scorer, group))
    assert math.isnan(samples[1].metrics["reward"])
    assert samples[1].advantage == 0
