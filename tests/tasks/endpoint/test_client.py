"""The client against a scripted endpoint: replies, and every kind of failure as a value."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oyer.config.reward import EndpointConfig
from oyer.demo.judge_server import JudgeServer
from oyer.demo.responses import Action, named
from oyer.protocol.status import Status
from oyer.tasks.endpoint import base_urls
from oyer.tasks.endpoint.base_urls import FAILURES_TO_COOL
from oyer.tasks.endpoint.client import EndpointClient
from oyer.tasks.endpoint.types import ChatRequest, Failure, Reply, RetryClass
from tests.support.paths import SUPPORT
from tests.support.raw_server import RawServer, ok

REQUEST = ChatRequest(
    model="judge-1",
    messages=[
        {"role": "system", "content": "Judge the response."},
        {"role": "user", "content": "```\n2 + 2?\n```\n```\n4\n```\n```\n2 + 2 = 4\n```"},
    ],
    temperature=0.0,
    max_tokens=64,
)
NEVER, TRANSIENT, RATE_LIMIT = RetryClass.NEVER, RetryClass.TRANSIENT, RetryClass.RATE_LIMIT


@pytest.fixture
def server() -> Iterator[JudgeServer]:
    with JudgeServer() as server:
        yield server


def client_of(base_url: str, **fields: Any) -> EndpointClient:
    return EndpointClient("judge", EndpointConfig(base_url=base_url, **fields), {})


def complete(
    server: JudgeServer, action: Action | None = None, request: ChatRequest = REQUEST, **fields: Any
) -> Reply | Failure:
    if action:
        server.set_plan(lambda _: action)
    return client_of(server.base_url, **fields).complete(request, timeout_s=20.0)


def test_a_reply_is_read(server: JudgeServer) -> None:
    reply = complete(server, named("reply", text="Final score: 8"))
    assert isinstance(reply, Reply)
    assert (reply.text, reply.finish_reason, reply.http_status) == ("Final score: 8", "stop", 200)
    (arrival,) = server.requests
    assert (reply.prompt_tokens, reply.completion_tokens) == (
        arrival.prompt_tokens,
        arrival.completion_tokens,
    )
    assert reply.usage_reported
    assert reply.latency_ms > 0


def test_the_body_holds_what_was_asked_and_nothing_else(server: JudgeServer) -> None:
    complete(server)
    request = ChatRequest(
        model="judge-1",
        messages=REQUEST.messages,
        response_format={"type": "json_object"},
        logprobs=5,
        seed=3,
        extra_body={"top_p": 0.5},
    )
    complete(server, request=request, extra_body={"top_p": 0.9, "user": "oyer"})
    plain, rich = (arrival.json() for arrival in server.requests)
    messages = list(REQUEST.messages)
    assert plain == {
        "model": "judge-1",
        "messages": messages,
        "temperature": 0.0,
        "max_tokens": 64,
    }
    assert rich == {
        "model": "judge-1",
        "messages": messages,
        "response_format": {"type": "json_object"},
        "logprobs": True,
        "top_logprobs": 5,
        "seed": 3,
        "top_p": 0.5,
        "user": "oyer",
    }


def test_a_reply_changes_nothing_of_the_requests_after_it() -> None:
    with RawServer(lambda _: ok(b"{}", b"Set-Cookie: session=1; Path=/")) as raw:
        client = client_of(f"http://127.0.0.1:{raw.port}/v1")
        for _ in range(2):
            client.complete(REQUEST, timeout_s=20.0)
    assert raw.requests[0] == raw.requests[1]


def test_a_lone_surrogate_in_a_rollout_does_not_fail_the_call(server: JudgeServer) -> None:
    request = ChatRequest(model="m", messages=[{"role": "user", "content": "评 \ud83d"}])
    assert isinstance(complete(server, named("reply", text="8"), request), Reply)
    assert server.requests[0].messages() == [("user", "评 ?")]


@pytest.mark.parametrize(
    ("name", "text", "finish_reason", "refusal"),
    [
        ("cut_reply", "The response first sets up the equation and then", "length", None),
        ("content_filter", "", "content_filter", None),
        ("null_content", "", "stop", None),
        ("refusal", "", "stop", "I'm sorry, I can't help with that."),
    ],
)
def test_what_a_reply_lacks_is_left_to_the_reader(
    server: JudgeServer, name: str, text: str, finish_reason: str, refusal: str | None
) -> None:
    reply = complete(server, named(name))
    assert isinstance(reply, Reply)
    assert (reply.text, reply.finish_reason, reply.refusal) == (text, finish_reason, refusal)


def test_logprobs_come_with_the_reply(server: JudgeServer) -> None:
    reply = complete(server, named("logprobs"))
    assert isinstance(reply, Reply)
    assert reply.token_logprobs is not None
    assert reply.token_logprobs[-1].token == "8"
    assert dict(reply.token_logprobs[-1].top)["7"] == -1.6


@pytest.mark.parametrize(
    ("name", "status", "retry", "http_status", "error_class"),
    [
        ("invalid_request", Status.REJECTED, NEVER, 400, "BadRequestError"),
        ("unauthorized", Status.REJECTED, NEVER, 401, "AuthenticationError"),
        ("payment_required", Status.REJECTED, NEVER, 402, "APIStatusError"),
        ("forbidden", Status.REJECTED, NEVER, 403, "PermissionDeniedError"),
        ("not_found", Status.REJECTED, NEVER, 404, "NotFoundError"),
        ("insufficient_quota", Status.REJECTED, NEVER, 429, "RateLimitError"),
        ("context_length_exceeded", Status.CONTEXT_OVERFLOW, NEVER, 400, "BadRequestError"),
        ("redirect", Status.REJECTED, NEVER, 307, "APIStatusError"),
        ("request_timeout", Status.TIMEOUT, TRANSIENT, 408, "APIStatusError"),
        ("conflict", Status.UNAVAILABLE, TRANSIENT, 409, "ConflictError"),
        ("server_error", Status.UNAVAILABLE, TRANSIENT, 500, "InternalServerError"),
        ("bad_gateway", Status.UNAVAILABLE, TRANSIENT, 502, "InternalServerError"),
        ("unavailable", Status.UNAVAILABLE, TRANSIENT, 503, "InternalServerError"),
        ("gateway_timeout", Status.UNAVAILABLE, TRANSIENT, 504, "InternalServerError"),
        ("rate_limited", Status.RATE_LIMITED, RATE_LIMIT, 429, "RateLimitError"),
        ("error_body", Status.UNAVAILABLE, TRANSIENT, 200, "ErrorBody"),
        ("html", Status.UNAVAILABLE, TRANSIENT, 200, "NotJson"),
        ("half_json", Status.UNAVAILABLE, TRANSIENT, 200, "NotJson"),
        ("reset", Status.UNAVAILABLE, TRANSIENT, None, "ReadError"),
        ("close", Status.UNAVAILABLE, TRANSIENT, None, "RemoteProtocolError"),
        ("reset_mid_body", Status.UNAVAILABLE, TRANSIENT, None, "ReadError"),
        ("short_body", Status.UNAVAILABLE, TRANSIENT, None, "RemoteProtocolError"),
    ],
)
def test_each_failure_is_a_value_and_costs_one_request(
    server: JudgeServer,
    name: str,
    status: Status,
    retry: RetryClass,
    http_status: int | None,
    error_class: str,
) -> None:
    failure = complete(server, named(name))
    assert isinstance(failure, Failure)
    assert (failure.status, failure.retry) == (status, retry)
    assert (failure.http_status, failure.error_class) == (http_status, error_class)
    assert failure.message
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "action",
    [named("black_hole"), named("drip", drip_bytes=1, drip_pause_s=0.02)],
    ids=["silence", "drip"],
)
def test_the_time_limit_covers_the_whole_attempt(server: JudgeServer, action: Action) -> None:
    server.set_plan(lambda _: action)
    failure = client_of(server.base_url).complete(REQUEST, timeout_s=1.0)
    assert isinstance(failure, Failure)
    assert (failure.status, failure.retry) == (Status.TIMEOUT, TRANSIENT)
    assert (failure.error_class, failure.http_status) == ("ReadTimeout", None)


def test_a_refused_connection_is_unavailable() -> None:
    with RawServer(lambda _: b"") as raw:
        url = f"http://127.0.0.1:{raw.port}/v1"
    failure = client_of(url).complete(REQUEST, timeout_s=20.0)
    assert isinstance(failure, Failure)
    assert (failure.status, failure.error_class) == (Status.UNAVAILABLE, "ConnectError")


@pytest.mark.parametrize(
    ("form", "asked_s"),
    [("seconds", 2.0), ("date", 2.0), ("ms", 2.0), ("reset_requests", 2.0), ("reset_tokens", 2.0)],
)
def test_each_form_of_retry_after_arrives(server: JudgeServer, form: str, asked_s: float) -> None:
    failure = complete(server, named("rate_limited", retry_after_s=2.0, retry_after_form=form))
    assert isinstance(failure, Failure)
    # A date has whole seconds, and some of them have passed.
    assert failure.retry_after_s == pytest.approx(asked_s, abs=1.1 if form == "date" else 1e-6)


def test_a_refused_response_format_is_flagged(server: JudgeServer) -> None:
    structured = ChatRequest(
        model="judge-1", messages=REQUEST.messages, response_format={"type": "json_object"}
    )
    refused = complete(server, named("response_format_unsupported"), structured)
    assert isinstance(refused, Failure)
    assert refused.refused == {"response_format": None}


def test_calls_move_to_the_base_url_that_answers(
    server: JudgeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base_urls, "COOL_DOWN_S", 3600.0)
    with RawServer(lambda _: b"", close=True) as dead:
        urls = [{"url": f"http://127.0.0.1:{dead.port}/v1"}, {"url": server.base_url}]
        config = EndpointConfig.model_validate({"base_urls": urls})
        client = EndpointClient("judge", config, {})
        outcomes = [client.complete(REQUEST, timeout_s=20.0) for _ in range(60)]
    assert [outcome.url_index for outcome in outcomes if isinstance(outcome, Failure)] == [
        0
    ] * FAILURES_TO_COOL
    assert {outcome.url_index for outcome in outcomes if isinstance(outcome, Reply)} == {1}


@pytest.fixture(scope="module")
def answers() -> list[bytes]:
    return [b""]


@pytest.fixture(scope="module")
def arbitrary(answers: list[bytes]) -> Iterator[EndpointClient]:
    with RawServer(lambda _: answers[0], close=True) as raw:
        yield client_of(f"http://127.0.0.1:{raw.port}/v1")


HEADS = [
    b"",
    b"HTTP/1.0 ",
    b"HTTP/1.1 200 OK\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n",
    b"HTTP/1.1 302 Found\r\nLocation: ",
    b"HTTP/1.1 429 Slow\r\nRetry-After: ",
    *(
        b"HTTP/1.1 200 OK\r\n" + name + b": "
        for name in (b"Content-Length", b"Content-Type", b"Content-Encoding", b"Set-Cookie")
    ),
]


@settings(max_examples=200, deadline=None)
@given(head=st.sampled_from(HEADS), rest=st.binary() | st.text().map(str.encode))
def test_whatever_bytes_arrive_the_client_does_not_raise(
    arbitrary: EndpointClient, answers: list[bytes], head: bytes, rest: bytes
) -> None:
    answers[0] = head + rest
    assert isinstance(arbitrary.complete(REQUEST, timeout_s=20.0), Reply | Failure)


def test_two_hundred_greenlets_call_at_once(server: JudgeServer) -> None:
    server.set_plan(lambda _: named("reply", text="Final score: 8", hold=True))
    script = SUPPORT.joinpath("gevent_calls.py")
    command = [sys.executable, str(script), server.base_url, "200"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        # Held until all have arrived: calls that waited for each other would never get here.
        server.wait_until(lambda log: len(log) == 200, timeout_s=200)
        server.release()
        output, _ = process.communicate(timeout=200)
    assert json.loads(output) == {"Final score: 8": 200}


def test_a_404_names_the_url_that_was_called(server: JudgeServer) -> None:
    server.set_plan(lambda _: named("not_found"))
    url = server.base_url.replace("://", "://user:pass@") + "?sig=abcdefghij"
    failure = client_of(url).complete(REQUEST, timeout_s=20.0)
    assert isinstance(failure, Failure)
    called = f"{server.base_url}/chat/completions"
    assert failure.message == f"HTTP 404 from {called}: The model does not exist."


def test_a_body_follows_what_the_endpoint_refuses(server: JudgeServer) -> None:
    refused = {"temperature": None, "max_tokens": "max_completion_tokens"}
    request = replace(REQUEST, refused=refused, seed=7, reasoning_effort="low")
    assert isinstance(complete(server, None, request), Reply)
    body = server.requests[-1].json()
    assert body.keys() == {"model", "messages", "max_completion_tokens", "seed", "reasoning_effort"}
    assert body["max_completion_tokens"] == REQUEST.max_tokens


def test_the_other_name_in_extra_body_replaces_max_tokens(server: JudgeServer) -> None:
    complete(server, None, REQUEST, extra_body={"max_completion_tokens": 9})
    body = server.requests[-1].json()
    assert ("max_tokens" in body, body["max_completion_tokens"]) == (False, 9)


def test_a_refused_field_is_flagged_with_its_new_name(server: JudgeServer) -> None:
    message = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
    error = {"error": {"message": message, "param": "max_tokens", "code": "unsupported_parameter"}}
    refused = complete(server, Action(status=400, body=json.dumps(error)))
    assert isinstance(refused, Failure)
    assert refused.refused == {"max_tokens": "max_completion_tokens"}


@pytest.mark.parametrize(
    "laid_over",
    [
        {"message": {"content": None, "reasoning_content": "Score 3?"}},
        {"message": {"content": "", "reasoning": "Score 3?"}},
        {"message": {"content": [{"type": "thinking", "thinking": [{"text": "Score: 3"}]}]}},
        {"message": {"content": [{"type": "reasoning", "text": "Final score: 3"}]}},
    ],
    ids=str,
)
def test_thinking_is_detected_and_not_part_of_the_text(
    server: JudgeServer, laid_over: dict[str, Any]
) -> None:
    reply = complete(server, Action(**laid_over))
    assert isinstance(reply, Reply)
    assert (reply.thought, reply.text) == (True, "")
