"""A training run of TRL with a judge of criteria and a group judge: its components are the record's."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from trainer_backend import COMPONENTS, JUDGES_OF_KINDS, Backend, answer_by_kind, components_of
from trl_training import GROUP, train

from oyer.manager.trl import reward_functions

STEPS = 2


def test_the_components_that_the_trainer_sees_are_those_on_record(
    backend: Backend, model: Callable[[], Any], tokenizer_folder: Path, tmp_path: Path
) -> None:
    backend.judge.set_plan(answer_by_kind)
    file = backend.file("kinds.yaml", judges=JUDGES_OF_KINDS, length=[])
    functions = reward_functions(file, num_generations=GROUP, run="trl-kinds")
    assert [one.__name__ for one in functions] == [f"oyer/{name}" for name in COMPONENTS]
    options = {
        "seed": 31,
        "max_steps": STEPS,
        "reward_weights": [0.0, 3.0, 1.0, -2.0, 0.5],
        "multi_objective_aggregation": "normalize_then_sum",
    }
    trainer = train(model(), functions, tokenizer_folder, tmp_path, **options)
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
