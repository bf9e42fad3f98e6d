"""The rule judge scores correct answers higher, in the rubric's language, for any input."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oyer.config.criteria.criterion import Criterion
from oyer.demo.rule_judge import fenced_blocks, score_reply
from oyer.tasks.judging.criteria.wording import with_criteria

STEPS = "16 - 3 - 4 = 9\n9 * 2 = 18\n"


def prompt(response: str, reference: str | None = "18") -> str:
    blocks = ["How much does she make?", *([reference] if reference is not None else []), response]
    return "\n\n".join(f"Part\n````\n{block}\n````" for block in blocks)


def score(response: str, reference: str | None = "18") -> int:
    return int(score_reply("You are a judge.", prompt(response, reference)).rsplit(" ", 1)[1])


@pytest.mark.parametrize("number", ["18", "18.0", "$18", "18.", "**18**"])
def test_a_response_whose_final_number_is_the_reference_scores_high(number: str) -> None:
    assert score(f"{STEPS}A: {number}") in (9, 10)


@pytest.mark.parametrize("number", ["17", "180", "-18", "18.5", "none"])
def test_a_response_with_another_final_number_scores_low(number: str) -> None:
    assert score(f"18\n{STEPS.replace('18', '?')}A: {number}") in (2, 3, 4)


def test_thousands_separators_are_ignored() -> None:
    assert score(f"{STEPS}A: 1,234,567", "1234567") >= 9


def test_steps_add_a_point_at_equal_variation() -> None:
    bare = {score(f"{' ' * i}18") for i in range(20)}
    shown = {score(f"{' ' * i}= 18") for i in range(20)}
    assert (bare, shown) == ({8, 9}, {9, 10})


def test_without_a_reference_the_score_is_in_the_middle() -> None:
    assert score(f"{STEPS}A: 18", None) in (6, 7)


def test_an_empty_response_scores_one() -> None:
    assert score(" \n") == 1


def test_the_last_line_is_in_the_language_of_the_rubric() -> None:
    english = score_reply("Judge the response.", prompt("18"))
    chinese = score_reply("你是一名严格的评审。", prompt("18"))
    assert re.fullmatch(r"Final score: \d+", english.splitlines()[-1])
    assert re.fullmatch(r"最终评分: \d+", chinese.splitlines()[-1])
    assert english.rsplit(" ", 1)[1] == chinese.rsplit(" ", 1)[1]


def test_a_longer_fence_contains_shorter_ones() -> None:
    assert fenced_blocks("````python\na\n```\nb\n```\n````\n~~~\nc\n~~~") == ["a\n```\nb\n```", "c"]


def test_an_empty_block_and_an_unclosed_block_are_blocks() -> None:
    assert fenced_blocks("```\n```\n```\nlast") == ["", "last"]


@given(st.text(), st.text(st.characters()))
def test_any_text_gets_the_same_score_on_the_scale_each_time(system: str, user: str) -> None:
    reply = score_reply(system, user)
    assert 1 <= int(reply.rsplit(" ", 1)[1]) <= 10
    assert reply == score_reply(system, user)


@given(st.lists(st.text(), max_size=4))
def test_fenced_blocks_are_read_back_unchanged(blocks: list[str]) -> None:
    fence = "`" * (3 + max((len(run) for b in blocks for run in re.findall("`+", b)), default=0))
    text = "\n".join(f"## Part\n{fence}\n{block}\n{fence}" for block in blocks)
    assert fenced_blocks(text) == blocks


def test_only_a_pitfall_is_answered_as_a_fault() -> None:
    criteria = (
        Criterion(name="finds", text="Finds the fault."),
        Criterion(name="padded", text="Is padded.", points=-1),
    )
    messages = [{"role": "user", "content": prompt(f"{STEPS}A: 18")}]
    [user] = with_criteria(messages, criteria, "en")
    verdicts = json.loads(score_reply("You are a judge.", user["content"]))["verdicts"]
    assert [one["verdict"] for one in verdicts] == [True, False]
