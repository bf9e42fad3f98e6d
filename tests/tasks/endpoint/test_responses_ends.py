"""Responses that broke off, were blocked, are streams, or name a wait in their body."""

from typing import Any

import pytest

from oyer.protocol.status import Status
from oyer.tasks.endpoint.types import Failure, Reply, RetryClass
from oyer.tasks.parsing.parser import parse_score
from tests.tasks.endpoint.test_responses import (
    NEVER,
    RATE_LIMIT,
    TRANSIENT,
    answered,
    completion,
    failed,
)


@pytest.mark.parametrize(
    "word", ["insufficient_system_resource", "error", "network_error", "abort", "OTHER", "timeout"]
)
@pytest.mark.parametrize("content", ["Score: 8\nStill open: the", "", None])
def test_a_reply_that_the_endpoint_broke_off_is_tried_again(word: str, content: str | None) -> None:
    failure = answered(completion({"finish_reason": word, "message": {"content": content}}))
    assert isinstance(failure, Failure)
    assert (failure.status, failure.retry) == (Status.UNAVAILABLE, TRANSIENT)
    assert (failure.error_class, failure.fingerprint) == ("BrokenOff", None)
    assert word in failure.message
    assert (content or "")[:8] in failure.message
    assert (failure.prompt_tokens, failure.completion_tokens) == (12, 3)


@pytest.mark.parametrize(
    ("choice", "meaning", "retry"),
    [
        ({"error": {"code": 429, "message": "slow down"}}, Status.RATE_LIMITED, RATE_LIMIT),
        ({"error": {"code": 502, "message": "upstream died"}}, Status.UNAVAILABLE, TRANSIENT),
        ({"error": {"message": "upstream died"}}, Status.UNAVAILABLE, TRANSIENT),
        ({"error": "upstream died"}, Status.UNAVAILABLE, TRANSIENT),
        ({"error": {"code": "rate_limit_exceeded"}}, Status.RATE_LIMITED, RATE_LIMIT),
        ({"error": {"code": 403, "message": "flagged by moderation"}}, Status.REFUSED, NEVER),
    ],
)
@pytest.mark.parametrize("word", ["error", "stop"])
def test_an_error_of_the_choice_is_read_like_one_of_the_body(
    word: str, choice: dict[str, Any], meaning: Status, retry: RetryClass
) -> None:
    failure = answered(completion({"finish_reason": word, **choice}))
    assert isinstance(failure, Failure)
    assert (failure.status, failure.retry, failure.error_class) == (meaning, retry, "ErrorBody")
    assert failure.prompt_tokens == 12


@pytest.mark.parametrize(
    "data",
    [
        {"choices": [{"finish_reason": "content_filter: PROHIBITED_CONTENT"}]},
        {"choices": [{"finish_reason": "content_filter", "message": None}]},
        {"choices": [{"finish_reason": "SAFETY", "message": None, "error": {"code": 500}}]},
        {"choices": [], "promptFeedback": {"blockReason": "SAFETY"}},
        {"promptFeedback": {"blockReason": "OTHER"}},
    ],
)
def test_a_blocked_prompt_is_a_reply_without_text_that_reads_as_refused(data: Any) -> None:
    reply = answered(data)
    assert isinstance(reply, Reply)
    assert reply.text == ""
    reading = parse_score(reply.text, scale=(1, 10), finish_reason=reply.finish_reason)
    assert reading.status is Status.REFUSED


@pytest.mark.parametrize(
    "body",
    [
        b'data: {"choices": [{"delta": {"content": "8"}}]}\n\ndata: [DONE]\n\n',
        b': OPENROUTER PROCESSING\n\n: OPENROUTER PROCESSING\n\ndata: {"id": 1}\n\n',
        b"event: message\ndata: {}\n\n",
        b'{"object": "chat.completion.chunk"}\n{"object": "chat.completion.chunk"}\n',
        b'{"object": "chat.completion.chunk", "choices": [{"delta": {"content": "8"}}]}',
    ],
)
def test_a_stream_is_named_and_not_paid_for_again(body: bytes) -> None:
    failure = answered(body)
    assert isinstance(failure, Failure)
    assert (failure.status, failure.retry) == (Status.UNAVAILABLE, NEVER)
    assert "streams its reply" in failure.message


@pytest.mark.parametrize("status", [429, 503])
def test_a_wait_in_the_body_is_taken_over(status: int) -> None:
    info = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "6.02s"}
    error = {"code": status, "message": "Quota of this minute is used up.", "details": [info]}
    assert failed(status, [{"error": error}]).retry_after_s == 6.02
    assert failed(status, b"Please try again in 6s").retry_after_s == 6.0
    beside = {"error": {"code": status, "message": "slow down"}, "retry_after": 7}
    assert failed(status, beside).retry_after_s == 7.0
    named = answered({**beside, "choices": [{"message": {"content": "Try again in 99 s."}}]})
    assert isinstance(named, Failure)
    assert named.retry_after_s == 7.0


@pytest.mark.parametrize("status", [502, 503, 504, *range(520, 531), 598, 599])
def test_equal_errors_of_gateways_are_no_answer(status: int) -> None:
    assert failed(status, b"error code").fingerprint is None
    named = answered({"error": {"code": status, "message": "error code"}})
    assert isinstance(named, Failure)
    assert (named.retry, named.fingerprint) == (TRANSIENT, None)
