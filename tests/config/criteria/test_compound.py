"""A criterion that asks for two things is noticed, and one that joins nouns is not."""

import pytest

from oyer.config import rubric as rubrics
from oyer.config.criteria.compound import compound_criteria
from oyer.config.judge import JudgeConfig


def found(text: str) -> dict[str, str]:
    raw = {"name": "j", "endpoint": "e", "model": "m", "criteria": [{"name": "c", "text": text}]}
    return compound_criteria(JudgeConfig.model_validate(raw))


@pytest.mark.parametrize(
    ("text", "joint"),
    [
        ("States the dose and gives its unit.", "and gives"),
        ("Is it right, and does it show the steps?", "and does"),
        ("Names the drug as well as explains its use.", "as well as explains"),
        ("The answer is right AND IS short.", "AND IS"),
        ("Refuses and then warns the user.", "and then warns"),
        ("给出剂量，并且说明单位。", "并且"),
        ("写明步骤以及最终答案。", "以及"),
    ],
)
def test_two_requirements_are_noticed(text: str, joint: str) -> None:
    assert found(text) == {"c": joint}


@pytest.mark.parametrize(
    "text",
    [
        "Mentions salt and pepper.",
        "Explains the trade-off between cost and risk.",
        "Is the final answer right?",
        "Understandable and isolated.",
        "说明同时间发生的事件。",
        "是否给出正确答案？",
    ],
)
def test_one_requirement_is_left_alone(text: str) -> None:
    assert found(text) == {}


@pytest.mark.parametrize("name", ["reasoning_criteria_zh", "tool_call_criteria_en"])
def test_built_in_criteria_are_not_the_users_to_split(name: str) -> None:
    raw = {"name": "j", "endpoint": "e", "model": "m", "rubric": rubrics.resolve(name)}
    assert compound_criteria(JudgeConfig.model_validate(raw)) == {}
