"""The criteria that rollouts bring along, in the formats of public data sets."""

import json
from typing import Any

import pytest

from oyer.config.criteria.criterion import Criterion
from oyer.config.criteria.formats import InvalidCriteria, read_criteria
from oyer.config.judge import JudgeConfig
from oyer.config.reward import RewardConfig
from oyer.manager.validation import check
from oyer.protocol.errors import InvalidRollout
from oyer.protocol.rollout import Rollout

HEALTHBENCH = [
    {"criterion": "Advises to see a doctor.", "points": 7, "tags": ["level:example"]},
    {"criterion": "Is overly verbose.", "points": -4, "tags": []},
]
RAR = [
    {"title": "Cause", "description": "Essential Criteria: Names the cause.", "weight": 5},
    {"title": "Dose", "description": "Pitfall Criteria: Gives a wrong dose.", "weight": -2},
    {"title": "Tone", "description": "Stays calm.", "weight": "Optional"},
]
OPEN_INSTRUCT = {
    "query": "What is RLHF?",
    "rubrics": [
        {"description": "Explains it.", "weight": 1.0},
        {"rubric_item": "Cites a source.", "weight": -0.5},
        {"Ingredient": "Names PPO.", "Handle": "ppo"},
    ],
}
VERIFIERS = [
    {"name": "correct", "text": "Is it right?", "weight": 2},
    {"name": "style", "text": "Is it plain?", "choices": ["no", "partly", "fully"]},
]


def summary(raw: Any) -> list[tuple[str, str, float]]:
    return [(one.name, one.text, one.counted) for one in read_criteria(raw)]


def test_each_public_format_is_read() -> None:
    assert summary(HEALTHBENCH) == [
        ("criterion_1", "Advises to see a doctor.", 7),
        ("criterion_2", "Is overly verbose.", -4),
    ]
    assert summary(RAR) == [
        ("Cause", "Essential Criteria: Names the cause.", 5),
        ("Dose", "Pitfall Criteria: Gives a wrong dose.", -2),
        ("Tone", "Stays calm.", 0.3),
    ]
    assert summary(OPEN_INSTRUCT) == [
        ("criterion_1", "Explains it.", 1),
        ("criterion_2", "Cites a source.", -0.5),
        ("ppo", "Names PPO.", 1),
    ]
    assert read_criteria(VERIFIERS)[1].choices == ("no", "partly", "fully")
    assert summary(json.dumps(VERIFIERS)) == summary(VERIFIERS)


@pytest.mark.parametrize(
    ("name", "weight"), [("Essential", 1), ("important", 0.7), ("Pitfall", 0.9), ("Optional", 0.3)]
)
def test_named_weights_are_those_of_the_paper(name: str, weight: float) -> None:
    raw = [{"title": "t", "description": "d", "weight": name}]
    assert read_criteria(raw)[0].counted == weight


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        ([], "list of one criterion or more"),
        ({"query": "q"}, "mapping without `rubrics`"),
        ("[{", "not JSON"),
        (7, "list of one criterion or more"),
        (["text"], r"\[0\]: must be a mapping"),
        ([{"name": "a", "weight": 1}], r"\[0\]: has no text"),
        ([{"criterion": "a", "text": "b"}], r"\[0\]: has criterion and text"),
        ([{"criterion": "  "}], r"\[0\].*text"),
        ([{"criterion": "a", "points": 0}], r"\[0\]\.points: 0 counts nothing"),
        ([{"criterion": "a", "points": "7"}], r"\[0\]\.points: '7' is none of Essential"),
        ([{"criterion": "a", "points": True}], r"\[0\]\.points: must be a finite number"),
        ([{"criterion": "a", "points": float("nan")}], r"\[0\]\.points: must be a finite number"),
        ([{"criterion": "a", "points": 1, "weight": 1}], r"\[0\]: has points and weight"),
        ([*VERIFIERS, VERIFIERS[0]], r"\[2\]: 'correct' is also the name of \[0\]"),
        ([{"text": "a", "choices": ["x"]}], r"\[0\].*choices"),
        ([{"text": "a", "choices": ["x", "x"]}], r"\[0\].*choices"),
        ([{"text": "a", "choices": ["x", 2]}], r"\[0\].*choices"),
        ([{"text": "a", "choices": ["x", "y"], "weight": -1}], r"\[0\].*pitfall"),
        ([{"text": "a", "required": "maybe"}], r"\[0\].*required"),
        ([{"name": "a\nb", "text": "a"}], r"\[0\].*name"),
    ],
)
def test_a_malformed_one_is_refused_by_place(raw: Any, problem: str) -> None:
    with pytest.raises(InvalidCriteria, match=problem):
        read_criteria(raw)


def config(**judge: Any) -> RewardConfig:
    named = {"name": "rubric", "endpoint": "e", "model": "m", **judge}
    return RewardConfig.model_validate({"judges": [named]})


def rollouts(*metadata: Any) -> list[Rollout]:
    return [Rollout(prompt="p", response="r", metadata=one) for one in metadata]


def test_submit_names_the_row_and_the_criterion() -> None:
    rows = rollouts({"rubric": VERIFIERS}, {"rubric": [*VERIFIERS, {"name": "x", "text": ""}]})
    with pytest.raises(InvalidRollout, match=r"rollouts\[1\]\.metadata\.rubric\[2\]: .*text"):
        check(rows, config(criteria_from="metadata.rubric"))


def test_a_row_without_criteria_is_judged_by_those_of_the_judge_if_there_are_any() -> None:
    own = config(criteria_from="metadata.rubric", criteria=VERIFIERS)
    check(rollouts({}, {"rubric": None}), own)
    with pytest.raises(InvalidRollout, match=r"rollouts\[0\]\.metadata\.rubric: is missing"):
        check(rollouts({}), config(criteria_from="metadata.rubric"))


def test_points_without_a_positive_one_are_refused() -> None:
    judge = config(criteria_from="metadata.rubric", combine_criteria="points")
    with pytest.raises(InvalidRollout, match="no criterion with positive points"):
        check(rollouts({"rubric": [{"criterion": "a", "points": -1}]}), judge)


CRITERIA = [{"name": "a", "text": "A?"}, {"name": "b", "text": "B?"}]


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ({"criteria": CRITERIA, "rubric": "reasoning_en"}, "rubric: asks for one score"),
        ({"criteria": [*CRITERIA, CRITERIA[0]]}, r"criteria\[2\]: 'a' is also the name"),
        ({"criteria": CRITERIA, "scale": [1, 10]}, "scale: follows from"),
        ({"criteria": CRITERIA, "expected_score": True}, "expected_score: "),
        ({"rubric": "criteria_en"}, "criteria: is missing"),
        ({"criteria_per_call": 2}, "criteria_per_call: needs"),
        ({"combine_criteria": "points"}, "combine_criteria: needs"),
        ({"min_valid_criteria": 1}, "min_valid_criteria: needs"),
        ({"criteria_from": "rubric"}, "criteria_from"),
        ({"criteria": CRITERIA, "criteria_per_call": 0}, "criteria_per_call"),
        ({"criteria": [{"name": "a", "text": "A?", "points": 0}]}, "points: 0 counts nothing"),
        (
            {"criteria": [{"name": "a", "text": "A?", "points": -1}], "combine_criteria": "any"},
            "'a' is a pitfall",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused(keys: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        JudgeConfig.model_validate({"name": "q", "endpoint": "e", "model": "m", **keys})


@pytest.mark.parametrize(
    "rubric",
    [
        "tool_call_criteria_en",
        "tool_call_criteria_zh",
        "reasoning_criteria_en",
        "reasoning_criteria_zh",
    ],
)
def test_a_rubric_that_ships_has_criteria_of_its_own(rubric: str) -> None:
    judge = JudgeConfig.model_validate(
        {"name": "q", "endpoint": "e", "model": "m", "rubric": rubric}
    )
    assert judge.gives_verdicts
    assert len(judge.own_criteria) == 5
    assert any(one.pitfall for one in judge.own_criteria)
    assert JudgeConfig.model_validate(judge.model_dump(mode="json")) == judge
    assert judge.scale == (0.0, 1.0)
    assert all(isinstance(one, Criterion) for one in judge.own_criteria)
