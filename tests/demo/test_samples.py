"""The sample rollouts match their NOTICE."""

import re
from collections import Counter
from importlib import resources
from typing import Any

import pytest

from oyer.config import rubric as rubrics
from oyer.config.rubrics.template import ROLLOUT_PARTS
from oyer.demo.rule_judge import score_reply
from oyer.demo.samples import sample_rollouts


def test_there_are_128_groups_of_four_different_policies() -> None:
    rollouts = sample_rollouts()
    groups = Counter(rollout["group_id"] for rollout in rollouts)
    assert (len(groups), set(groups.values())) == (128, {4})
    assert len({(r["group_id"], r["metadata"]["policy"]) for r in rollouts}) == 512


def test_every_line_has_the_fields_that_score_reads() -> None:
    for rollout in sample_rollouts():
        assert {name: type(value) for name, value in rollout.items()} == {
            "group_id": str,
            "prompt": str,
            "response": str,
            "correct": bool,
            "reference": str,
            "response_tokens": int,
            "metadata": dict,
        }
        assert rollout["response"].strip()


def test_a_group_shares_its_prompt_and_reference() -> None:
    rollouts = sample_rollouts()
    questions = {(r["group_id"], r["prompt"], r["reference"]) for r in rollouts}
    assert len(questions) == 128


def test_response_tokens_follow_the_rule_in_the_notice() -> None:
    rule = r"\w+|[^\w\s]"
    assert f"`{rule}`" in resources.files("oyer.demo").joinpath("NOTICE").read_text("utf-8")
    for rollout in sample_rollouts():
        assert rollout["response_tokens"] == len(re.findall(rule, rollout["response"]))


def test_the_licence_is_packaged_with_the_data() -> None:
    notice = resources.files("oyer.demo").joinpath("NOTICE").read_text("utf-8")
    for part in ("openai/grade-school-math", "MIT License", "Copyright (c) 2021 OpenAI"):
        assert part in notice


@pytest.mark.parametrize("name", [n for n in rubrics.BUILT_IN if "criteria" not in n])
def test_the_demonstration_judge_reads_them_in_the_prompts_of_every_rubric(name: str) -> None:
    rubric = rubrics.parse(rubrics.resolve(name))
    for rollout in sample_rollouts():
        shown: dict[str, Any] = {part: rollout.get(part) for part in ROLLOUT_PARTS}
        messages = rubrics.render(rubric, scale=(1.0, 10.0), **shown)
        reply = score_reply(messages[0]["content"], messages[-1]["content"])
        assert (int(reply.rsplit(" ", 1)[1]) >= 8) == rollout["correct"]
