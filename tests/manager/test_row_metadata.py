"""What judges read of a data set's row reaches them from every trainer, whatever its size."""

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from oyer.config.loading import validate
from oyer.demo.judge_server import JudgeServer
from oyer.demo.responses import Action
from oyer.manager import Rollout
from oyer.manager.adapters import NeededFields, row_metadata
from oyer.manager.openrlhf import rows_of
from oyer.manager.openrlhf.query_text import QueryText
from oyer.manager.slime.samples import rollout_of
from oyer.manager.trl import reward_function
from tests.manager.test_slime import samples
from tests.support.scripted_backend import Running, sibling, user_text
from tests.support.trl_trainer import Trainer
from tests.support.verl_data import Tokens
from tests.support.verl_loop import manager_of, scored, trajectories

RUBRIC = [
    {"name": "right", "text": "Is it right? " + "Check every step. " * 20, "weight": 1},
    {"name": "short", "text": "Is it short?", "weight": 1},
]
JUDGE = {"name": "q", "endpoint": "fake", "model": "m", "reasks": 0}
OWN_CRITERIA = {**JUDGE, "criteria_from": "metadata.rubric"}
SHOWS_TOPIC = {**JUDGE, "rubric": "Score it.\n---user---\n{metadata.task.topic}\n{response}"}
TOPIC = "long division " * 40


@pytest.fixture
def judge_says() -> str:
    verdicts = [
        {"name": "right", "reason": "yes", "verdict": True},
        {"name": "short", "reason": "no", "verdict": False},
    ]
    return json.dumps({"verdicts": verdicts})


def test_trl_passes_on_a_rows_own_criteria(running: Running, judge: JudgeServer) -> None:
    manager = sibling(running[0], judges=[OWN_CRITERIA])
    rewards = Trainer().rewards(reward_function(manager), "own", [10] * 4, rubric=[RUBRIC] * 4)
    assert rewards == pytest.approx([0.05] * 4)


@pytest.mark.parametrize("place", ["extra_info", "column"])
def test_verl_passes_on_a_rows_own_criteria(
    running: Running, judge: JudgeServer, place: str
) -> None:
    held = np.array(RUBRIC, dtype=object)
    inside: dict[str, Any] = {"base": 1.0, "rubric": held}
    columns: dict[str, Any] = {"extra_info": [inside] * 2}
    if place == "column":
        columns = {"rubric": [held] * 2}
    tokens = Tokens()
    manager = manager_of(
        tokens, sibling(running[0], judges=[OWN_CRITERIA]).config.model_dump(mode="json")
    )
    data = trajectories(tokens, f"own {place}", [10] * 2, **columns)
    results = scored(manager, data)
    assert [r["reward_extra_info"]["judge_status"] for r in results] == ["scored"] * 2
    assert [r["reward_score"] for r in results] == pytest.approx([1.05] * 2)


def test_a_rubric_shows_a_long_value_of_the_row(running: Running, judge: JudgeServer) -> None:
    manager = sibling(running[0], judges=[SHOWS_TOPIC])
    Trainer().rewards(reward_function(manager), "topic", [10] * 2, task=[{"topic": TOPIC}] * 2)
    assert all(TOPIC in user_text(request) for request in judge.requests)
    assert len(judge.requests) == 2


def test_slime_passes_on_what_a_judge_reads() -> None:
    needed = NeededFields.of(validate({"judges": [OWN_CRITERIA], "endpoints": {"fake": ENDPOINT}}))
    (sample,) = samples("slime", (4,))
    sample.metadata = {"rubric": RUBRIC}
    assert rollout_of(SimpleNamespace(), sample, needed, "g").metadata["rubric"] == RUBRIC


ENDPOINT = {"base_url": "http://127.0.0.1:9/v1"}


def test_what_a_configuration_reads_is_kept_as_json() -> None:
    config = validate(
        {"judges": [OWN_CRITERIA, {**SHOWS_TOPIC, "name": "r"}], "endpoints": {"fake": ENDPOINT}}
    )
    row = {
        "index": np.int64(3),
        "rubric": np.array(RUBRIC, dtype=object),
        "extra_info": {"task": {"topic": TOPIC, "level": np.float32(2)}},
        "long": TOPIC,
    }
    assert row_metadata(row, config) == {
        "index": 3,
        "rubric": RUBRIC,
        "task": {"topic": TOPIC, "level": 2.0},
    }
    assert row_metadata({"rubric": None}, config) == {}


def test_a_row_without_a_reference_shows_none(running: Running, judge: JudgeServer) -> None:
    """Not the word None: data sets fill gaps with null, and OpenRLHF with an empty text."""
    judge.set_plan(Action(text="Final score: 5"))
    function = reward_function(running[0], reference="answer")
    answers = [None, "", float("nan"), {"target": np.array(["42", "forty-two"])}]
    Trainer().rewards(function, "reference", [10] * 4, answer=answers)
    shown = [user_text(request) for request in judge.requests]
    assert sum("## Reference" in text for text in shown) == 1
    assert any('{"target": ["42", "forty-two"]}' in text for text in shown)
    (row,) = rows_of(["q: a</s>"], ["q:"], [""], QueryText())
    assert isinstance(row, Rollout)
    assert row.reference is None
