"""The re-ask for a verdict line that a reply lacks."""

import math

import pytest

from oyer.config.reward import JudgeConfig
from oyer.protocol.status import Status
from oyer.tasks.endpoint.types import ChatRequest
from oyer.tasks.judging.judge_call import reask
from oyer.tasks.judging.reading import ScoreReading
from oyer.tasks.parsing.parser import ParsedScore, parse_score

REQUEST = ChatRequest(
    model="m",
    messages=({"role": "system", "content": "s"}, {"role": "user", "content": "u"}),
    temperature=0.5,
    max_tokens=64,
)


def judge(rubric: str, scale: tuple[float, float] = (1, 10)) -> JudgeConfig:
    return JudgeConfig.model_validate(
        {"name": "q", "endpoint": "e", "model": "m", "rubric": rubric, "scale": scale}
    )


def question_of(one: JudgeConfig) -> str:
    missing = ParsedScore(math.nan, Status.UNPARSEABLE, "none", "")
    return ScoreReading(one).reask(missing, last=True)[0]


def test_the_re_ask_continues_the_conversation() -> None:
    again = reask(REQUEST, "Hmm.", question_of(judge("reasoning_en")))
    assert list(again.messages[:2]) == list(REQUEST.messages)
    assert again.messages[2] == {"role": "assistant", "content": "Hmm."}
    assert again.messages[3]["role"] == "user"
    assert len(again.messages) == 4
    assert (again.model, again.temperature, again.max_tokens) == ("m", 0.5, 64)
    assert len(REQUEST.messages) == 2


@pytest.mark.parametrize(
    "reply",
    [
        "",
        " \n\n",
        "\u200b\ufeff",
        "<think>I like it.</think>",
        "<think>I like",
        "<think></think>\n",
        "<|im_end|>",
    ],
)
def test_a_reply_without_visible_text_repeats_the_request(reply: str) -> None:
    assert reask(REQUEST, reply, question_of(judge("reasoning_en"))) == REQUEST


@pytest.mark.parametrize(
    ("rubric", "line"),
    [
        ("reasoning_en", "Final score: N"),
        ("reasoning_zh", "最终评分: N"),
        ("tool_call_zh", "最终评分: N"),
    ],
)
def test_the_question_is_in_the_rubrics_language(rubric: str, line: str) -> None:
    assert (
        line
        in reask(REQUEST, "Hmm.", question_of(judge(rubric))).messages[-1]["content"].splitlines()
    )


@pytest.mark.parametrize("rubric", ["reasoning_en", "reasoning_zh"])
def test_the_question_states_the_scale(rubric: str) -> None:
    question = reask(REQUEST, "Hmm.", question_of(judge(rubric, (0.5, 100)))).messages[-1][
        "content"
    ]
    assert "0.5" in question
    assert "100" in question
    assert "{" not in question


@pytest.mark.parametrize("rubric", ["reasoning_en", "reasoning_zh"])
def test_a_repeated_question_is_not_a_score(rubric: str) -> None:
    question = reask(REQUEST, "Hmm.", question_of(judge(rubric))).messages[-1]["content"]
    assert parse_score(question, scale=(1, 10)).status is not Status.SCORED


@pytest.mark.parametrize("rubric", ["reasoning_en", "reasoning_zh"])
def test_the_requested_line_can_be_parsed(rubric: str) -> None:
    question = reask(REQUEST, "Hmm.", question_of(judge(rubric))).messages[-1]["content"]
    line = next(line for line in question.splitlines() if line.endswith(": N"))
    assert parse_score(line.replace("N", "7"), scale=(1, 10)).score == 7
