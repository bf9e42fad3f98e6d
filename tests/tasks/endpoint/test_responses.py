"""What each HTTP response means."""

import json
from collections.abc import Collection
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oyer.protocol.status import Status
from oyer.tasks.endpoint.responses import http_failure, read_response
from oyer.tasks.endpoint.types import Failure, Reply, RetryClass

NOW = datetime(2026, 3, 1, tzinfo=UTC)
NEVER, TRANSIENT, RATE_LIMIT = RetryClass.NEVER, RetryClass.TRANSIENT, RetryClass.RATE_LIMIT


def failed(
    status: int, body: Any, headers: dict[str, str] | None = None, *, sent: Collection[str] = ()
) -> Failure:
    encoded = body if isinstance(body, bytes) else json.dumps(body).encode()
    return http_failure(status, headers or {}, encoded, error_class="E", now=NOW, sent=sent)


def answered(body: Any) -> Reply | Failure:
    encoded = body if isinstance(body, bytes) else json.dumps(body).encode()
    return read_response(200, {}, encoded, now=NOW)


def openai_error(message: str = "", code: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error", "code": code}}


def completion(choice: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    usage = {"prompt_tokens": 12, "completion_tokens": 3}
    first = {"message": {"content": "Final score: 8"}, "finish_reason": "stop", **(choice or {})}
    return {"model": "judge-1", "choices": [first], "usage": usage, **fields}


@pytest.mark.parametrize(
    ("status", "body", "meaning", "retry"),
    [
        (301, b"", Status.REJECTED, NEVER),
        (400, openai_error("bad value"), Status.REJECTED, NEVER),
        (401, openai_error("wrong key"), Status.REJECTED, NEVER),
        (403, openai_error("not allowed"), Status.REJECTED, NEVER),
        (404, openai_error("no such model"), Status.REJECTED, NEVER),
        (422, {"detail": [{"msg": "field required"}]}, Status.REJECTED, NEVER),
        (402, b"", Status.REJECTED, NEVER),
        (402, openai_error("Insufficient Balance"), Status.REJECTED, NEVER),
        (429, openai_error("You exceeded …", "insufficient_quota"), Status.REJECTED, NEVER),
        (429, openai_error("slow down", "rate_limit_exceeded"), Status.RATE_LIMITED, RATE_LIMIT),
        # Gemini, a limit per minute:
        (429, openai_error("You exceeded your current quota"), Status.RATE_LIMITED, RATE_LIMIT),
        (408, b"", Status.TIMEOUT, TRANSIENT),
        (409, b"", Status.UNAVAILABLE, TRANSIENT),
        (500, b"<html>", Status.UNAVAILABLE, TRANSIENT),
        (503, openai_error("overloaded"), Status.UNAVAILABLE, TRANSIENT),
        (504, b"", Status.UNAVAILABLE, TRANSIENT),
        (529, b"", Status.UNAVAILABLE, TRANSIENT),
        (520, b"error code: 520", Status.UNAVAILABLE, TRANSIENT),
        # Groq: no capacity; Gemini: cancelled:
        (498, openai_error("capacity exceeded"), Status.UNAVAILABLE, TRANSIENT),
        (499, {"error": {"code": 499, "status": "CANCELLED"}}, Status.UNAVAILABLE, TRANSIENT),
        (400, openai_error("The prompt was blocked: PROHIBITED_CONTENT"), Status.REFUSED, NEVER),
        (400, openai_error("", "content_filter"), Status.REFUSED, NEVER),
        (400, openai_error("Content Exists Risk"), Status.REFUSED, NEVER),
        (400, {"code": "DataInspectionFailed", "message": "…"}, Status.REFUSED, NEVER),
        (400, openai_error("", "context_length_exceeded"), Status.CONTEXT_OVERFLOW, NEVER),
        (413, openai_error("prompt is too long: 9 tokens > 8"), Status.CONTEXT_OVERFLOW, NEVER),
    ],
)
def test_each_error_has_a_status_and_a_retry_class(
    status: int, body: Any, meaning: Status, retry: RetryClass
) -> None:
    failure = failed(status, body)
    assert (failure.status, failure.retry, failure.http_status) == (meaning, retry, status)


@pytest.mark.parametrize(
    "message",
    [
        "This model's maximum context length is 8192 tokens, however you requested 9000 tokens",
        "prompt is too long: 200001 tokens > 200000 maximum",
        "The input token count (40000) exceeds the maximum number of tokens allowed (32768).",
        "The decoder prompt (length 5000) is longer than the maximum model length of 4096.",
        "The input (9000 tokens) is longer than the model's context length (8192 tokens).",
        "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096",
        "the request exceeds the available context size. try increasing the context size",
        "Range of input length should be [1, 30720]",
        "Your input exceeds the context window of this model.",
        "Input is too long for requested model.",
        "Please reduce the length of the messages or completion.",
    ],
)
@pytest.mark.parametrize("status", [400, 500])
def test_a_full_context_window_is_known_by_the_words_of_many_servers(
    status: int, message: str
) -> None:
    failure = failed(status, {"error": {"message": message}})
    assert (failure.status, failure.retry) == (Status.CONTEXT_OVERFLOW, NEVER)


@pytest.mark.parametrize(
    ("status", "header", "retry"),
    [
        (500, "false", NEVER),
        (400, "true", TRANSIENT),
        (429, "true", RATE_LIMIT),
        (429, "x", RATE_LIMIT),
    ],
)
def test_x_should_retry_is_respected(status: int, header: str, retry: RetryClass) -> None:
    assert failed(status, b"", {"X-Should-Retry": header}).retry is retry


def test_a_failure_has_the_wait_that_the_endpoint_requests() -> None:
    assert failed(503, b"", {"Retry-After": "4"}).retry_after_s == 4.0


def test_an_allowance_that_is_not_spent_delays_no_retry_of_another_failure() -> None:
    full = {"x-ratelimit-remaining-requests": "9000", "x-ratelimit-reset-requests": "8m38s"}
    assert failed(500, b"", full).retry_after_s is None
    assert failed(429, b"", full).retry_after_s == 518.0
    spent = {**full, "x-ratelimit-remaining-requests": "0"}
    assert failed(500, b"", spent).retry_after_s == 518.0


@pytest.mark.parametrize(
    ("status", "message", "structured", "refused"),
    [
        (400, "'response_format' is not supported with this model", True, True),
        (422, "guided_json is disabled", True, True),
        (400, "'response_format' is not supported with this model", False, False),
        (400, "temperature is out of range", True, False),
        (500, "json_schema compilation failed", True, False),
    ],
)
def test_a_refused_response_format_is_flagged(
    status: int, message: str, structured: bool, refused: bool
) -> None:
    sent = ["model", "temperature", "response_format"] if structured else ["model", "temperature"]
    failure = failed(status, openai_error(message), sent=sent)
    assert ("response_format" in failure.refused) is refused


def test_a_redirect_names_its_target() -> None:
    assert "https://b.example/v1" in failed(308, b"", {"Location": "https://b.example/v1"}).message


def test_two_5xx_that_say_the_same_have_one_fingerprint() -> None:
    first = failed(500, openai_error("error, see request req_4f1c9b7ae0234d11 at 12:30:01"))
    again = failed(500, openai_error("error, see request req_9a77b1c2ffe04a90 at 12:31:45"))
    other = failed(500, openai_error("division by zero"))
    assert first.fingerprint == again.fingerprint != other.fingerprint
    assert failed(501, b"").fingerprint != failed(500, b"").fingerprint
    assert failed(400, b"").fingerprint is None


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"error": {"message": "broken"}}, "HTTP 500: broken"),
        ({"error": "broken"}, "HTTP 500: broken"),
        ({"object": "error", "message": "broken", "code": 500}, "HTTP 500: broken"),
        ({"detail": "broken"}, "HTTP 500: broken"),
        ({"error_code": 336, "error_msg": "broken"}, "HTTP 500: broken"),
        (b"broken", "HTTP 500: broken"),
        (b"\xff\x00said", "HTTP 500: \ufffdsaid"),
        ([{"error": {"message": "broken"}}], "HTTP 500: broken"),
        (b"[" * 100_000, "HTTP 500: " + "[" * 4000),
    ],
)
def test_the_message_is_found_in_each_shape_of_error_body(body: Any, message: str) -> None:
    assert failed(500, body).message == message


def test_a_completion_is_read() -> None:
    assert answered(completion()) == Reply(
        text="Final score: 8",
        finish_reason="stop",
        refusal=None,
        prompt_tokens=12,
        completion_tokens=3,
        usage_reported=True,
        model="judge-1",
    )


@pytest.mark.parametrize(
    ("message", "text", "refusal"),
    [
        ({"content": None}, "", None),
        ({}, "", None),
        ({"content": None, "refusal": "I can't"}, "", "I can't"),
        ({"content": [{"type": "text", "text": "Score"}, {"text": ": 8"}, 3]}, "Score: 8", None),
        ({"content": 8}, "", None),
        ({"content": "8\x00\ud83d"}, "8?", None),
    ],
)
def test_each_shape_of_content_is_read(
    message: dict[str, Any], text: str, refusal: str | None
) -> None:
    reply = answered(completion({"message": message}))
    assert isinstance(reply, Reply)
    assert (reply.text, reply.refusal) == (text, refusal)


@pytest.mark.parametrize("finish_reason", ["stop", "length", "content_filter", None])
def test_the_finish_reason_is_left_to_the_reader(finish_reason: str | None) -> None:
    reply = answered(completion({"finish_reason": finish_reason}))
    assert isinstance(reply, Reply)
    assert reply.finish_reason == finish_reason


@pytest.mark.parametrize(
    "usage", [None, {}, [], {"prompt_tokens": 12}, {"prompt_tokens": "x", "completion_tokens": -1}]
)
def test_usage_that_is_missing_is_not_taken_for_zero_tokens(usage: Any) -> None:
    reply = answered(completion(usage=usage))
    assert isinstance(reply, Reply)
    assert not reply.usage_reported


def test_logprobs_are_read_with_their_alternatives() -> None:
    entry = {"token": "8", "logprob": -0.4, "top_logprobs": [{"token": "8", "logprob": -0.4}]}
    reply = answered(completion({"logprobs": {"content": [entry]}}))
    assert isinstance(reply, Reply)
    assert reply.token_logprobs == (("8", -0.4, (("8", -0.4),)),)


@pytest.mark.parametrize("logprobs", [None, {}, {"content": None}, {"content": [{"token": "8"}]}])
def test_logprobs_that_cannot_be_read_are_none(logprobs: Any) -> None:
    reply = answered(completion({"logprobs": logprobs}))
    assert isinstance(reply, Reply)
    assert reply.token_logprobs is None


@pytest.mark.parametrize(
    ("body", "error_class"),
    [
        (b"", "NotJson"),
        (b'{"choices": [{"mess', "NotJson"),
        (b"<html>Welcome to nginx!</html>", "NotJson"),
        (b"[" * 100_000, "NotJson"),
        ({}, "NoChoice"),
        ({"choices": []}, "NoChoice"),
        ({"choices": None}, "NoChoice"),
        ({"choices": [{"message": None}]}, "NoChoice"),
        ({"choices": {"0": 1}}, "NoChoice"),
        (b"8", "NoChoice"),
        (openai_error("The server had an error"), "ErrorBody"),
        ({**completion(), "error": {"message": "upstream died"}}, "ErrorBody"),
    ],
)
def test_a_200_without_a_completion_is_transient(body: Any, error_class: str) -> None:
    failure = answered(body)
    assert isinstance(failure, Failure)
    assert (failure.status, failure.retry, failure.http_status, failure.error_class) == (
        Status.UNAVAILABLE,
        TRANSIENT,
        200,
        error_class,
    )


@pytest.mark.parametrize(
    ("error", "meaning", "retry"),
    [
        ({"code": 429, "message": "slow down"}, Status.RATE_LIMITED, RATE_LIMIT),
        ({"code": 401, "message": "no"}, Status.REJECTED, NEVER),
        ({"code": "context_length_exceeded"}, Status.CONTEXT_OVERFLOW, NEVER),
        ({"code": 336103, "message": "?"}, Status.UNAVAILABLE, TRANSIENT),
    ],
)
def test_an_error_body_under_200_means_what_it_names(
    error: dict[str, Any], meaning: Status, retry: RetryClass
) -> None:
    failure = answered({"error": error})
    assert isinstance(failure, Failure)
    assert (failure.status, failure.retry, failure.http_status) == (meaning, retry, 200)


def test_a_billed_failure_has_its_token_usage() -> None:
    failure = answered({"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 0}})
    assert isinstance(failure, Failure)
    assert (failure.prompt_tokens, failure.usage_reported) == (9, True)


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
PARTS = {
    "choices": JSON,
    "usage": JSON,
    "error": JSON,
    "model": JSON,
    "message": JSON,
    "detail": JSON,
}


@given(status=st.integers(200, 599), body=st.fixed_dictionaries({}, optional=PARTS) | JSON)
def test_any_json_means_something(status: int, body: Any) -> None:
    encoded = json.dumps(body).encode()
    assert isinstance(read_response(status, {}, encoded, now=NOW), Reply | Failure)
    failure = failed(status, encoded)
    assert failure.message.encode()


@given(st.binary())
def test_any_bytes_mean_something(body: bytes) -> None:
    assert isinstance(read_response(200, {}, body, now=NOW), Reply | Failure)
    assert failed(500, body).status in Status
