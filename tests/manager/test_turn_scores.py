"""The scores of turns reach trainers where their interface has a place for them."""

import json
import math
from types import SimpleNamespace
from typing import Any

import numpy as np

from oyer.config.loading import validate
from oyer.demo.judge_server import JudgeServer
from oyer.demo.responses import Action
from oyer.manager.score import Score
from oyer.manager.slime import missing_reward
from oyer.manager.trl import reward_function
from oyer.manager.verl.columns import ExtraColumns
from tests.support.scripted_backend import Running, sibling, user_text
from tests.support.trl_trainer import Trainer

EACH_TURN = {"name": "q", "endpoint": "fake", "model": "m", "reasks": 0, "view": "each_turn"}


def test_trl_has_them_in_the_table_of_completions(running: Running, judge: JudgeServer) -> None:
    judge.set_plan(lambda arrival: Action(text=f"Final score: {5 + ('So' in user_text(arrival))}"))
    turns = [
        {"role": "assistant", "content": "I search."},
        {"role": "tool", "content": "A page."},
        {"role": "assistant", "content": "So: 42."},
    ]
    trainer = Trainer()
    function = reward_function(sibling(running[0], judges=[EACH_TURN]))
    completions: Any = [turns, turns[:1]]
    trainer.rewards(function, "turns", [4, 4], completions=completions)
    assert [*map(json.loads, trainer.extra["oyer/turn_scores"])] == [[5, 6], [5]]


def test_verl_has_them_in_every_row() -> None:
    config = validate({"judges": [EACH_TURN], "endpoints": {"fake": {"base_url": "http://h/v1"}}})
    columns = ExtraColumns(config)
    scores = [Score(status="scored", turn_scores=[5.0, None]), Score(status="expired")]
    rows = [columns.row(score, 1.0, 1.0, None) for score in scores]
    # verl makes an array of each key.
    column = np.array([row["oyer/turn_scores"] for row in rows])
    assert [*map(json.loads, column)] == [[5, None], []]
    without = validate({"judges": [{**EACH_TURN, "view": "full"}], "endpoints": config.endpoints})
    assert "oyer/turn_scores" not in ExtraColumns(without).row(scores[1], math.nan, 1.0, None)


def test_slime_has_them_in_the_samples_metadata() -> None:
    sample = SimpleNamespace(metadata={"topic": "t"})
    missing_reward(sample, Score(reward=1.0, status="scored", turn_scores=[5.0, None]), 0.0)
    assert sample.metadata["turn_scores"] == [5.0, None]
    assert sample.metadata["topic"] == "t"
