"""TRL with data sets whose rows bring columns of their own, and a training that is resumed."""

import json
import sqlite3
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from datasets import Dataset
from trainer_backend import Backend
from transformers import AutoTokenizer
from trl import GRPOConfig, GRPOTrainer
from trl_training import GROUP, SETTINGS

from oyer.demo.responses import Action
from oyer.manager.trl import reward_function


def trainer_of(
    model: Any, reward: Any, tokenizer_folder: Path, out: Path, columns: dict[str, Any], **more: Any
) -> GRPOTrainer:
    prompts = [f"Is {i} odd?" for i in range(8)]
    return GRPOTrainer(
        model,
        reward_funcs=reward,
        processing_class=AutoTokenizer.from_pretrained(tokenizer_folder),
        train_dataset=Dataset.from_dict({"prompt": prompts, **columns}),
        args=GRPOConfig(output_dir=str(out), **(SETTINGS | more)),
    )


def test_a_rows_own_criteria_reach_the_judge(
    backend: Backend, model: Callable[[], Any], tokenizer_folder: Path, tmp_path: Path
) -> None:
    """Data sets fill in absent keys by null, and a column may have the name of TRL's own argument."""

    def verdicts(arrival: Any) -> Action:
        text = dict(arrival.messages())["user"]
        names = [name for name in ("odd", "brief") if f"{name} of row" in text]
        found = [{"name": n, "reason": "so", "verdict": n == "odd"} for n in names]
        return Action(text=json.dumps({"verdicts": found}))

    backend.judge.set_plan(verdicts)
    rubric = [
        [
            {"name": "odd", "text": f"odd of row {i}? " + "Think. " * 60, "weight": 3.0},
            {"name": "brief", "text": f"brief of row {i}?", "points": None, "weight": 1.0},
        ]
        for i in range(8)
    ]
    judge = {"name": "q", "endpoint": "fake", "model": "m", "criteria_from": "metadata.rubric"}
    function = reward_function(backend.file("rows.yaml", judges=[judge]), run="rows")
    columns = {"rubric": rubric, "trainer": ["Ash"] * 8, "step": [3] * 8}
    trainer = trainer_of(
        model(),
        function,
        tokenizer_folder,
        tmp_path,
        columns,
        max_steps=1,
        seed=41,
        generation_kwargs={"min_new_tokens": 4},
    )
    trainer.train()
    (entry,) = [one for one in trainer.state.log_history if "oyer/missing" in one]
    assert entry["oyer/missing"] == 0
    assert entry["oyer/q"] == 0.75
    assert len(backend.judge.requests) == 2 * GROUP
    with sqlite3.connect(backend.folder / "record.db") as connection:
        query = "SELECT DISTINCT b.split FROM batches b JOIN runs u ON u.id = b.run_id WHERE u.name = 'rows'"
        assert connection.execute(query).fetchall() == [("train",)]


def test_a_resumed_training_goes_on_with_the_trainers_steps(
    backend: Backend, model: Callable[[], Any], tokenizer_folder: Path, tmp_path: Path
) -> None:
    file = backend.file("resumed.yaml", length={"method": "median_band"})
    for last in (2, 4):
        trainer = trainer_of(
            model(),
            reward_function(file, run="resumed"),
            tokenizer_folder,
            tmp_path,
            {},
            max_steps=last,
            seed=42,
            save_strategy="steps",
            save_steps=1,
        )
        trainer.train(resume_from_checkpoint=last > 2)
    with sqlite3.connect(backend.folder / "record.db") as connection:
        rows = connection.execute(
            "SELECT b.step, r.group_id FROM rollouts r JOIN batches b ON b.id = r.batch_id"
            " JOIN runs u ON u.id = b.run_id WHERE u.name = 'resumed'"
        ).fetchall()
    assert Counter(step for step, _ in rows) == dict.fromkeys(range(4), 2 * GROUP)
    assert set(Counter(rows).values()) == {GROUP}
