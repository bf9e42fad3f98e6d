"""TRL with several reward functions, truncation, evaluation and images: masks, keys and the record."""

import asyncio
import json
import math
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from PIL import Image
from trainer_backend import Backend, judged, score_of
from transformers import AutoTokenizer, LlamaForSequenceClassification
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

from oyer.demo.responses import Action, named
from oyer.manager.trl import (
    OverlappedRewards,
    masked_with,
    reward_function,
    reward_functions,
)

Train = Callable[..., Any]


class Watched:
    """Keeps rewards and advantages."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.rewards: list[list[float]] = []
        self.advantages: list[float] = []
        self.evaluated: list[str] = []
        super().__init__(*args, **kwargs)

    def _generate_and_score_completions(self: Any, inputs: Any) -> Any:
        output = super()._generate_and_score_completions(inputs)  # type: ignore[misc]  # of TRL
        if self.model.training:
            self.advantages += output["advantages"].tolist()
        return output

    def _calculate_rewards(self: Any, *args: Any) -> Any:
        rewards = super()._calculate_rewards(*args)  # type: ignore[misc]  # of TRL
        if self.model.training:
            self.rewards += rewards.tolist()
        return rewards


class WatchedGRPO(Watched, GRPOTrainer):
    """GRPO."""


class WatchedMixin(Watched, OverlappedRewards, GRPOTrainer):
    """GRPO with judging that overlaps."""


class WatchedRLOO(Watched, OverlappedRewards, RLOOTrainer):
    """RLOO with judging that overlaps."""


@pytest.fixture
def train(model: Callable[[], Any], tokenizer_folder: Path, tmp_path: Path) -> Train:
    def run(rewards: Any, kind: type = WatchedGRPO, seed: int = 1, **options: Any) -> Any:
        policy: Any = model()
        if kind is WatchedRLOO:
            # RLOO loads its reference model by the policy's path.
            policy.save_pretrained(tmp_path / "model")
            policy = str(tmp_path / "model")
        evaluation = options.pop("eval_dataset", None)
        reward_tokenizers = options.pop("reward_processing_classes", None)
        settings = {
            "output_dir": str(tmp_path),
            "num_generations": 4,
            "per_device_train_batch_size": 8,
            "max_completion_length": 12,
            "max_steps": 2,
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "use_cpu": True,
            "seed": seed,
            **options,
        }
        trainer = kind(
            policy,
            reward_funcs=rewards,
            processing_class=AutoTokenizer.from_pretrained(tokenizer_folder),
            train_dataset=Dataset.from_dict({"prompt": [f"Is {i} odd?" for i in range(8)]}),
            eval_dataset=evaluation,
            reward_processing_classes=reward_tokenizers,
            args=(RLOOConfig if kind is WatchedRLOO else GRPOConfig)(**settings),
        )
        trainer.train()
        assert all(bool(torch.isfinite(p).all()) for p in trainer.model.parameters())
        return trainer

    return run


def holes(arrival: Any) -> Action:
    score = score_of(judged(arrival))
    return named("not_found") if score % 2 else Action(text=f"Final score: {score}")


def tidy(completions: list[str], **_: Any) -> list[float]:
    """Another reward function, which knows every row."""
    return [float(len(text)) for text in completions]


def logged(trainer: Any) -> list[dict[str, Any]]:
    return [entry for entry in trainer.state.log_history if "oyer/missing" in entry]


def test_masked_with_masks_the_row_in_all_functions(backend: Backend, train: Train) -> None:
    backend.judge.set_plan(holes)
    oyer = reward_function(backend.file(), num_generations=4, run="masked")
    trainer = train(masked_with(oyer, tidy), seed=11, reward_weights=[1.0, 0.5])
    assert trainer.reward_func_names == ["oyer", "tidy"]
    missing = [math.isnan(row[0]) for row in trainer.rewards]
    assert 0 < sum(missing) < len(missing)
    assert [math.isnan(row[1]) for row in trainer.rewards] == missing
    assert all(a == 0 for a, gone in zip(trainer.advantages, missing, strict=True) if gone)


@pytest.mark.parametrize("kind", [WatchedMixin, WatchedRLOO])
def test_the_mixin_masks_by_itself(backend: Backend, train: Train, kind: type) -> None:
    backend.judge.set_plan(holes)
    oyer = reward_function(backend.file(), num_generations=4, run=f"mixin-{kind.__name__}")
    trainer = train([oyer, tidy], kind, seed=12 + len(kind.__name__))
    missing = [math.isnan(row[0]) for row in trainer.rewards]
    assert 0 < sum(missing) < len(missing)
    assert [math.isnan(row[1]) for row in trainer.rewards] == missing
    assert all(a == 0 for a, gone in zip(trainer.advantages, missing, strict=True) if gone)


def test_the_mixin_masks_reward_models_too(
    backend: Backend, train: Train, model: Callable[[], Any], tokenizer_folder: Path
) -> None:
    backend.judge.set_plan(holes)
    oyer = reward_function(backend.file(), num_generations=4, run="reward-model")
    config = model().config
    config.num_labels = 1
    reward_model = LlamaForSequenceClassification(config)
    tokenizers = [None, AutoTokenizer.from_pretrained(tokenizer_folder)]
    trainer = train(
        [oyer, reward_model], WatchedMixin, seed=18, reward_processing_classes=tokenizers
    )
    missing = [math.isnan(row[0]) for row in trainer.rewards]
    assert 0 < sum(missing) < len(missing)
    assert [math.isnan(row[1]) for row in trainer.rewards] == missing
    assert all(a == 0 for a, gone in zip(trainer.advantages, missing, strict=True) if gone)


def test_a_group_without_any_score_beside_an_unmasked_function_is_none_of_it(
    backend: Backend, train: Train
) -> None:
    """Its rows are ranked by the other function alone."""
    backend.judge.set_plan(named("not_found"))
    oyer = reward_function(backend.file(), num_generations=4, run="unscored")
    trainer = train([oyer, tidy], seed=19, max_steps=1)
    assert all(math.isnan(row[0]) for row in trainer.rewards)
    assert all(map(math.isfinite, trainer.advantages))


def test_a_missing_score_beside_an_unmasked_function_is_its_groups_mean(
    backend: Backend, train: Train
) -> None:
    backend.judge.set_plan(holes)
    oyer = reward_function(backend.file(), num_generations=4, run="neutral")
    trainer = train([oyer, tidy], seed=13)
    recorded = {k for k, v in backend.recorded("neutral").items() if v is None}
    assert recorded
    for first in range(0, len(trainer.rewards), 4):
        rewards = [row[0] for row in trainer.rewards[first : first + 4]]
        scored = [r for r in rewards if not math.isnan(r) and abs(r * 10 - round(r * 10)) < 1e-5]
        assert all(math.isnan(r) or min(scored) <= r <= max(scored) for r in rewards)


def test_components_train_by_gdpo_in_an_outage(backend: Backend, train: Train) -> None:
    def plan(arrival: Any) -> Action:
        return holes(arrival) if arrival.model == "m2" else Action(text="Final score: 7")

    backend.judge.set_plan(plan)
    judges = [
        {"name": name, "endpoint": "fake", "model": model, "reasks": 0}
        for name, model in (("quality", "m"), ("style", "m2"))
    ]
    file = backend.file(judges=judges, length={"method": "median_band"})
    functions = reward_functions(file, num_generations=4, run="gdpo")
    names = [one.__name__ for one in functions]
    assert names == ["oyer/quality", "oyer/style", "oyer/length_penalty"]
    trainer = train(
        functions,
        seed=14,
        reward_weights=[1.0, 0.5, 1.0],
        multi_objective_aggregation="normalize_then_sum",
    )
    assert all(map(math.isfinite, trainer.advantages))
    missing = [[math.isnan(value) for value in row] for row in trainer.rewards]
    # None in all functions or in none.
    assert all(all(row) or not any(row) for row in missing)
    assert any(map(all, missing))
    assert not all(map(all, missing))
    # One submission for all functions.
    with sqlite3.connect(backend.folder / "record.db") as connection:
        query = (
            "SELECT count(*) FROM batches b JOIN runs u ON u.id = b.run_id WHERE u.name = 'gdpo'"
        )
        assert connection.execute(query).fetchone() == (2,)
    for entry in logged(trainer):
        assert entry["oyer/quality"] == pytest.approx(7) or entry["oyer/quality"] >= 1
        assert 0 < entry["oyer/style_present"] < 1
        assert all(math.isfinite(v) for k, v in entry.items() if k.startswith("oyer/"))


def test_two_functions_have_keys_of_their_own(backend: Backend, train: Train) -> None:
    def plan(arrival: Any) -> Action:
        return Action(text=f"Final score: {9 if arrival.model == 'm' else 2}")

    backend.judge.set_plan(plan)
    made = []
    for name, model in (("good", "m"), ("brief", "m2")):
        judge = {"name": "q", "endpoint": "fake", "model": model, "reasks": 0}
        file = backend.file(f"{name}.yaml", judges=[judge])
        made.append(reward_function(file, num_generations=4, run=f"two-{name}", name=name))
    trainer = train(made, seed=15, max_steps=1)
    assert trainer.reward_func_names == ["good", "brief"]
    (entry,) = [one for one in trainer.state.log_history if "good/q" in one]
    assert entry["good/q"] > entry["brief/q"]
    assert {"rewards/good/mean", "rewards/brief/mean"} <= entry.keys()
    assert {"good/q", "brief/q"} <= trainer._logs["extra"].keys()


def test_completions_that_were_cut_are_known(backend: Backend, train: Train) -> None:
    backend.judge.set_plan(Action(text="Final score: 5"))
    file = backend.file(length={"method": "median_band", "truncated": "mask"})
    trainer = train(reward_function(file, num_generations=4, run="cut"), seed=16, max_steps=1)
    with sqlite3.connect(backend.folder / "record.db") as connection:
        query = (
            "SELECT r.truncated, r.response_tokens FROM rollouts r JOIN batches b ON b.id = r.batch_id"
            " JOIN runs u ON u.id = b.run_id WHERE u.name = 'cut' ORDER BY r.rollout_index"
        )
        rows = connection.execute(query).fetchall()
    # A random policy seldom ends by itself within 12 tokens.
    assert any(truncated for truncated, _ in rows)
    assert all(tokens == 12 for truncated, tokens in rows if truncated)
    cut = [bool(truncated) for truncated, _ in rows]
    assert [math.isnan(row[0]) for row in trainer.rewards] == cut
    (entry,) = logged(trainer)
    assert entry["completions/clipped_ratio"] == pytest.approx(sum(cut) / len(cut))


def test_the_record_tells_evaluation_from_training(backend: Backend, train: Train) -> None:
    file = backend.file(length={"method": "median_band"})
    questions = {"prompt": ["Is A?", "Is B?", "Is C?"], "source": ["x", "y", "z"]}
    train(
        reward_function(file, num_generations=4, run="splits"),
        seed=17,
        eval_dataset=Dataset.from_dict(questions),
        eval_strategy="steps",
        eval_steps=1,
        num_generations_eval=2,
        per_device_eval_batch_size=4,
    )
    with sqlite3.connect(backend.folder / "record.db") as connection:
        query = (
            "SELECT b.split, b.step, r.metadata FROM rollouts r JOIN batches b ON b.id = r.batch_id"
            " JOIN runs u ON u.id = b.run_id WHERE u.name = 'splits'"
        )
        rows = connection.execute(query).fetchall()
    assert [row[0] for row in rows].count("train") == 16
    evaluated = [row for row in rows if row[0] == "eval"]
    assert len(evaluated) == 2 * 3 * 2
    assert {row[1] for row in evaluated} == {1, 2}
    assert {json.loads(row[2])["source"] for row in evaluated} == {"x", "y", "z"}


@pytest.mark.parametrize("sent", [True, False], ids=["send", "placeholder"])
def test_images_in_prompts_and_tool_results_are_no_error(backend: Backend, sent: bool) -> None:
    """TRL hands over Pillow images, whose prompts and tool results no JSON can hold."""
    backend.judge.set_plan(Action(text="Final score: 5"))
    judge = {"name": "q", "endpoint": "fake", "model": "m", "reasks": 0}
    file = backend.file(judges=[judge | ({"images": "send"} if sent else {})])
    picture = {"type": "image", "image": Image.new("RGB", (2, 2), "red" if sent else "blue")}
    prompt = [{"role": "user", "content": [picture, {"type": "text", "text": "What colour?"}]}]
    call = {"type": "function", "function": {"name": "look", "arguments": {}}}
    completion = [
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "name": "look", "content": [picture]},
        {"role": "assistant", "content": [{"type": "text", "text": f"It is red, {sent}."}]},
    ]
    function = masked_with(reward_function(file, num_generations=2, run=f"images-{sent}"))[0]
    rewards = asyncio.run(
        function(prompts=[prompt] * 2, completions=[completion] * 2, completion_ids=[[1, 2, 3]] * 2)
    )
    assert rewards == pytest.approx([0.5] * 2)
    body = json.dumps(backend.judge.requests[0].json())
    assert ("data:image/png" in body) == sent
    assert ("[image]" in body) == (not sent)
