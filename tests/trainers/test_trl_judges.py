"""A training run of TRL with a judge of criteria and a group judge: its components are the record's."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from trainer_backend import COMPONENTS, JUDGES_OF_KINDS, Backend, answer_by_kind, components_of
from transformers import AutoTokenizer
from trl import GRPOConfig, GRPOTrainer

from oyer.manager.trl import reward_functions

STEPS, GROUP = 2, 4


class Watched(GRPOTrainer):
    """Keeps the value of each reward function by completion."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.seen: dict[str, list[float]] = {}
        super().__init__(*args, **kwargs)

    def _calculate_rewards(
        self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any
    ) -> Any:
        rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        self.seen |= dict(zip(completions, rewards.tolist(), strict=True))
        return rewards


def test_the_components_that_the_trainer_sees_are_those_on_record(
    backend: Backend, model: Callable[[], Any], tokenizer_folder: Path, tmp_path: Path
) -> None:
    backend.judge.set_plan(answer_by_kind)
    file = backend.file("kinds.yaml", judges=JUDGES_OF_KINDS, length=[])
    functions = reward_functions(file, num_generations=GROUP, run="trl-kinds")
    assert [one.__name__ for one in functions] == [f"oyer/{name}" for name in COMPONENTS]
    trainer = Watched(
        model(),
        reward_funcs=functions,
        processing_class=AutoTokenizer.from_pretrained(tokenizer_folder),
        train_dataset=Dataset.from_dict({"prompt": [f"Who is {i}?" for i in range(8)]}),
        args=GRPOConfig(
            output_dir=str(tmp_path),
            num_generations=GROUP,
            per_device_train_batch_size=2 * GROUP,
            max_completion_length=12,
            max_steps=STEPS,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            # Of no other test: another's completions would be on record.
            seed=31,
            reward_weights=[0.0, 3.0, 1.0, -2.0, 0.5],
            multi_objective_aggregation="normalize_then_sum",
        ),
    )
    trainer.train()
    recorded = backend.components("trl-kinds")
    judged = {text: values for text, values in trainer.seen.items() if not math.isnan(values[0])}
    assert len(judged) > STEPS * GROUP
    assert judged.keys() == recorded.keys()
    for text, values in judged.items():
        seen = dict(zip(COMPONENTS, values, strict=True))
        assert seen == pytest.approx(recorded[text], abs=1e-6)
        assert seen == pytest.approx(components_of(text), abs=1e-6)
    lists = [one for one in backend.judge.requests if '"scores"' in str(one.json()["messages"])]
    assert len(lists) == STEPS * 2
