"""A judgement by a call: refused fields, re-asks and their question, and what its failures say."""

import json
import math
from dataclasses import replace

import pytest

from oyer.config.reward import JudgeConfig
from oyer.protocol.status import Status
from oyer.tasks.endpoint.types import ChatRequest, Failure, Reply
from oyer.tasks.judging.judge_call import reask
from oyer.tasks.judging.reading import ScoreReading
from oyer.tasks.parsing.parser import ParsedScore, parse_score
from tests.support.resolver_doubles import FAILURE, NO_JSON, REPLY, Bench, reply

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


@pytest.mark.parametrize(
    ("result", "status"),
    [
        (FAILURE, Status.UNAVAILABLE),
        (reply("I like it."), Status.UNPARSEABLE),
        (reply("Final score: 42"), Status.UNPARSEABLE),
        (reply("", refusal="No."), Status.REFUSED),
        (reply("Final score: 7", finish_reason="length"), Status.TRUNCATED),
        (reply("Final score: 7", finish_reason="content_filter"), Status.REFUSED),
    ],
)
def test_a_failure_is_a_status_that_is_not_cached_and_its_claim_is_released(
    result: Reply | Failure, status: Status
) -> None:
    bench = Bench(result)
    answer = bench.claimed()
    assert (answer.source, answer.status) == ("called", status)
    assert answer.error
    assert len(answer.attempts) == 1
    assert bench.cache.replies == {}
    assert bench.flight.released == [bench.key]
    assert bench.flight.held == set()


def test_an_endpoint_missing_on_this_worker_is_a_status() -> None:
    bench = Bench(endpoint="gone")
    answer = bench.claimed()
    assert (answer.source, answer.status) == ("none", Status.REJECTED)
    assert answer.error == "endpoint 'gone' is not in the configuration of this worker"


def test_after_an_endpoint_refuses_json_output_it_is_not_requested_again() -> None:
    bench = Bench(NO_JSON, REPLY, REPLY, structured=True)
    answer = bench.claimed()
    assert answer.status is Status.SCORED
    assert [attempt.number for attempt in answer.attempts] == [1, 2]
    assert [dict(one.refused) for one in bench.client.requests] == [{}, {"response_format": None}]
    other = bench.jobs("43")[0]
    assert bench.resolver.answer(other, claimed=True).status is Status.SCORED
    assert bench.client.requests[2].refused == {"response_format": None}


def test_a_reply_without_a_verdict_causes_a_re_ask() -> None:
    bench = Bench(reply("I like it."), reply("Final score: 7"), reasks=1)
    answer = bench.claimed()
    assert answer.parsed is not None
    assert (answer.status, answer.parsed.score) == (Status.SCORED, 7)
    assert answer.text == "Final score: 7"
    assert [attempt.number for attempt in answer.attempts] == [1, 2]
    assert (answer.prompt_tokens, answer.completion_tokens) == (24, 6)
    assert bench.client.requests[1].messages[-2] == {"role": "assistant", "content": "I like it."}
    assert bench.cache.replies[bench.key].text == "Final score: 7"


def test_re_asks_end_at_the_configured_number() -> None:
    vague = [reply(f"Vague {i}.") for i in range(3)]
    bench = Bench(*vague, reasks=2)
    answer = bench.claimed()
    assert answer.status is Status.UNPARSEABLE
    assert answer.text == "Vague 2."
    assert [attempt.number for attempt in answer.attempts] == [1, 2, 3]
    assert bench.cache.replies == {}


def test_a_failed_re_ask_leaves_the_earlier_reply() -> None:
    bench = Bench(reply("I like it."), FAILURE, reasks=1)
    answer = bench.claimed()
    assert (answer.status, answer.text) == (Status.UNPARSEABLE, "I like it.")
    assert [attempt.http_status for attempt in answer.attempts] == [200, 500]
    assert bench.cache.replies == {}


@pytest.mark.parametrize(
    "again",
    [
        FAILURE,
        reply("", refusal="No."),
        reply("", finish_reason="length"),
        reply("", finish_reason="error"),
    ],
    ids=["failed", "refused", "cut", "broken_off"],
)
def test_verdicts_that_are_enough_without_the_re_ask_are_cached(again: Reply | Failure) -> None:
    verdicts = [{"name": "a", "reason": "r", "verdict": True}]
    partial = reply(json.dumps({"verdicts": verdicts}))
    criteria = [{"name": name, "text": "t"} for name in ("a", "b")]
    bench = Bench(partial, again, reasks=1, criteria=criteria, min_valid_criteria=1)
    answer = bench.claimed()
    assert answer.parsed is not None
    assert (answer.status, answer.parsed.score, answer.error) == (Status.SCORED, 1.0, None)
    assert len(answer.attempts) == 2
    [cached] = bench.resolver.known([bench.job]).values()
    assert cached.source == "cache"
    assert cached.parsed is not None
    assert cached.parsed.score == 1.0


@pytest.mark.parametrize(
    "result", [reply("Final score: 7", finish_reason="length"), reply("", refusal="No."), FAILURE]
)
def test_only_a_complete_reply_causes_a_re_ask(result: Reply | Failure) -> None:
    bench = Bench(result, reasks=3)
    bench.claimed()
    assert len(bench.client.requests) == 1


def test_a_field_refused_under_both_names_is_omitted() -> None:
    no_length = replace(NO_JSON, refused={"max_tokens": "max_completion_tokens"})
    neither = replace(NO_JSON, refused={"max_completion_tokens": "max_tokens"})
    bench = Bench(no_length, neither, REPLY)
    answer = bench.claimed()
    assert answer.status is Status.SCORED
    assert [attempt.number for attempt in answer.attempts] == [1, 2, 3]
    assert [dict(one.refused) for one in bench.client.requests] == [
        {},
        {"max_tokens": "max_completion_tokens"},
        {"max_tokens": None},
    ]


def test_an_endpoint_that_refuses_a_field_again_is_rejected() -> None:
    bench = Bench(NO_JSON, NO_JSON)
    answer = bench.claimed()
    assert (answer.status, answer.error) == (Status.REJECTED, NO_JSON.message)
    assert len(answer.attempts) == 2


@pytest.mark.parametrize(
    ("text", "thought"),
    [("", True), ("<think>First, the sum", False), ("<think>a</think>\n", True)],
)
def test_the_error_of_max_tokens_spent_on_thinking_names_the_fix(text: str, thought: bool) -> None:
    bench = Bench(reply(text, finish_reason="length", thought=thought), max_tokens=99)
    answer = bench.claimed()
    assert answer.status is Status.TRUNCATED
    assert "max_tokens (99) on thinking" in str(answer.error)
    assert "reasoning_effort" in str(answer.error)


@pytest.mark.parametrize(("text", "thought"), [("", False), ("The first step is", True)])
def test_the_error_of_another_cut_reply_does_not_mention_thinking(text: str, thought: bool) -> None:
    answer = Bench(reply(text, finish_reason="length", thought=thought)).claimed()
    assert answer.status is Status.TRUNCATED
    assert "thinking" not in str(answer.error)
