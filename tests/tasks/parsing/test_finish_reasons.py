"""Each provider's `finish_reason` is classified."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oyer.tasks.parsing.finish_reasons import End, end_of, finish_reason, first_choice

COMPLETE, CUT, FILTERED, BROKEN, UNKNOWN = End

WORDS = {
    COMPLETE: "stop STOP eos eos_token end_turn stop_sequence COMPLETE tool_calls function_call tool_use normal"
    " FinishReason.STOP FINISH_REASON_STOP tool-calls endOfText",
    CUT: "length LENGTH max_tokens MAX_TOKENS maxTokens max_output_tokens model_length token_limit"
    " model_context_window_exceeded context_length_exceeded FinishReason.MAX_TOKENS incomplete ERROR_LIMIT"
    " content_length_exceeded maximum_tokens",
    FILTERED: "content_filter content-filter contentFilter CONTENT_FILTERED SAFETY RECITATION BLOCKLIST"
    " PROHIBITED_CONTENT SPII LANGUAGE sensitive guardrail_intervened ERROR_TOXIC refusal IMAGE_SAFETY"
    " safety_block policy_violation",
    BROKEN: "insufficient_system_resource error ERROR network_error abort cancelled timeout time_limit OTHER"
    " MALFORMED_FUNCTION_CALL UNEXPECTED_TOOL_CALL failed overloaded server_overload internal_error rate_limit",
    UNKNOWN: "odd FINISH_REASON_UNSPECIFIED unknown null ? :",
}


@pytest.mark.parametrize(
    ("word", "end"), [(word, end) for end, words in WORDS.items() for word in words.split()]
)
def test_each_reason_is_classified_in_any_spelling(word: str, end: End) -> None:
    assert end_of(word) is end
    assert end_of(f" {word.upper()} ") is end


@pytest.mark.parametrize(
    ("reason", "end"),
    [
        ("content_filter: RECITATION", FILTERED),
        ("content_filter: PROHIBITED_CONTENT", FILTERED),
        ("content_filter: OTHER", FILTERED),
        ("content_filter: MAX_TOKENS", FILTERED),
        ("error: 503 Service Unavailable", BROKEN),
        ("length: 4096", CUT),
        ("stop: SAFETY", FILTERED),
        ("stop: </answer>", UNKNOWN),
        ("stop:", COMPLETE),
        ("", COMPLETE),
        (None, COMPLETE),
    ],
)
def test_a_detail_after_the_reason_counts(reason: str | None, end: End) -> None:
    assert end_of(reason) is end


@given(st.text())
def test_any_text_is_classified(text: str) -> None:
    assert end_of(text) in End


@pytest.mark.parametrize(
    ("choice", "reason"),
    [
        ({}, None),
        ({"finish_reason": None}, None),
        ({"finish_reason": ""}, None),
        ({"finish_reason": "stop"}, "stop"),
        ({"finish_reason": {"type": "abort", "message": "killed"}}, "abort"),
        ({"finish_reason": 7}, "not a word"),
        ({"finish_reason": None, "native_finish_reason": "STOP"}, "STOP"),
        ({"finish_reason": "stop", "native_finish_reason": "end_turn"}, "stop"),
        ({"finish_reason": "stop", "native_finish_reason": "MAX_TOKENS"}, "MAX_TOKENS"),
        ({"finish_reason": "stop", "native_finish_reason": "odd"}, "stop"),
    ],
)
def test_a_reason_that_names_a_failure_wins(choice: dict[str, Any], reason: str | None) -> None:
    message = {"message": {"content": "Score: 8"}}
    assert finish_reason({}, {**message, **choice}) == reason


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ({"promptFeedback": {"blockReason": "SAFETY"}}, "content_filter: SAFETY"),
        ({"prompt_feedback": {"block_reason": "OTHER"}, "choices": []}, "content_filter: OTHER"),
        (
            {
                "choices": [],
                "prompt_filter_results": [
                    {"content_filter_results": {"hate": {"filtered": False}}},
                    {"content_filter_results": {"violence": {"filtered": True}}},
                ],
            },
            "content_filter: violence",
        ),
        ({"prompt_filter_results": [{"content_filter_results": {"hate": 1}}, 3]}, None),
        ({"promptFeedback": {"blockReason": None}, "prompt_filter_results": None}, None),
        ([], None),
    ],
)
def test_a_blocked_prompt_is_a_content_filter(data: Any, reason: str | None) -> None:
    assert finish_reason(data, first_choice(data)) == reason


def test_feedback_on_an_answered_prompt_is_ignored() -> None:
    data = {
        "promptFeedback": {"blockReason": "SAFETY"},
        "choices": [{"message": {"content": "Score: 8"}, "finish_reason": "stop"}],
    }
    assert finish_reason(data, first_choice(data)) == "stop"
