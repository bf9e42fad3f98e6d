"""Any response of a judge becomes a status, with a score on the scale or without one."""

import json
import math
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from oyer.config.reward import EndpointConfig
from oyer.protocol.status import Status
from oyer.tasks.endpoint.client import EndpointClient
from oyer.tasks.endpoint.responses import http_failure, read_response
from oyer.tasks.endpoint.retry import retry_after_s
from oyer.tasks.endpoint.types import ChatRequest, Failure, Reply
from oyer.tasks.parsing.expected_score import expected_score
from oyer.tasks.parsing.parser import parse_score
from tests.fuzz.conftest import fuzz
from tests.support.fuzz_values import any_text, damaged, json_like, mutated
from tests.support.raw_server import RawServer, ok

NOW = datetime(2026, 1, 31, tzinfo=UTC)
MAX_TOKENS = 2**31 - 1
"""What the record's columns hold."""

scales = st.sampled_from([(1.0, 10.0), (0.0, 1.0), (-1.0, 1.0), (0.0, 100.0), (1.0, 5.0)])

_BITS = [
    "Final score: ", "score", "最终评分", "（1-10）：", "8", "10/10", "7.5", "-3", "9" * 400, "1e9", "NaN",
    "\n", " ", "**", "```json\n", "```", '{"score": ', "}", "{", "<score>", "</score>", "<think>",
    "</think>", "[[", "]]", "|", "wait, ", "分", "满分100分", "八点五", "一百", "ten", "out of 10", "\\boxed{",
    "I cannot rate this.", "not ", "would be", '"', "'", ",", ":", "：", "/", "-", "~", "%", "\0", "\ud800",
    "\u202e", "１０", "٣", "½", "Response A", "#", "> ", '{"score": 1' + "0" * 400 + "}", "{" * 600, "(" * 300,
    '{"a":' * 300, "0." + "3" * 50, "final score: 8\n" * 20, '{"score": true}', '{"score": [8]}',
]  # fmt: skip
texts = st.one_of(st.lists(st.sampled_from(_BITS), max_size=14).map("".join), any_text)


def check(score: float, status: Status, scale: tuple[float, float]) -> None:
    """A score is on the scale and finite; without one, there is a status that says why."""
    assert status in Status
    if status is Status.SCORED:
        assert scale[0] <= score <= scale[1]
    else:
        assert math.isnan(score)


@fuzz
@given(texts, scales, st.sampled_from([None, "stop", "length", "content_filter", "odd"]))
def test_a_text_is_scored_on_the_scale_or_has_a_status(
    text: str, scale: tuple[float, float], finish_reason: str | None
) -> None:
    reading = parse_score(text, scale=scale, finish_reason=finish_reason)
    event(reading.status)
    check(reading.score, reading.status, scale)


objects = mutated(
    {
        "reasoning": "good",
        "score": 8,
        "evaluation": {"final_score": "8/10", "max_score": 10},
        "total": 7.5,
    },
    bad=st.one_of(json_like, st.integers(), st.just(10**400), st.sampled_from(["8", "８", "-1e5"])),
)


@fuzz
@given(objects, scales, st.sampled_from(["{}", "```json\n{}\n```", "So:\n{}", "{} and {}", "{"]))
def test_an_object_is_scored_on_the_scale_or_has_a_status(
    value: Any, scale: tuple[float, float], place: str
) -> None:
    reading = parse_score(place.replace("{}", json.dumps(value, ensure_ascii=False)), scale=scale)
    event(reading.status)
    check(reading.score, reading.status, scale)


COMPLETION = {
    "model": "m",
    "choices": [
        {
            "message": {"role": "assistant", "content": "Final score: 8", "refusal": None},
            "finish_reason": "stop",
            "logprobs": {
                "content": [
                    {
                        "token": "8",
                        "logprob": -0.1,
                        "top_logprobs": [{"token": "8", "logprob": -0.1}],
                    }
                ]
            },
        }
    ],
    "usage": {"prompt_tokens": 10, "completion_tokens": 2},
}
ERROR = {"error": {"message": "rate limit", "type": "requests", "code": "429", "param": None}}
odd_numbers = st.sampled_from([10**400, -1, 1e300, math.inf, math.nan, 2**40, True, "12", 710.0])
bodies = st.one_of(
    st.binary(max_size=60),
    damaged(st.sampled_from([json.dumps(COMPLETION).encode(), json.dumps(ERROR).encode()])),
    json_like.map(lambda value: json.dumps(value).encode()),
    (
        mutated(COMPLETION, bad=json_like | odd_numbers)
        | mutated(ERROR, bad=json_like | odd_numbers)
    ).map(lambda value: json.dumps(value).encode()),
    st.sampled_from([b"[" * 9999, b'{"usage": {"prompt_tokens": ' + b"9" * 5000 + b"}}", b""]),
)
headers = st.dictionaries(
    st.sampled_from(
        ["retry-after", "retry-after-ms", "x-ratelimit-reset-requests", "x-should-retry", "location"]
    ),
    st.one_of(
        any_text,
        st.sampled_from(
            ["1e400", "-1", "1m30s", "9" * 400 + "s", "Wed, 99 Jan 99999 99:99:99 GMT", "true", "nan",
             "2026-01-31", "Sat, 31 Jan 2026 00:00:00 -9999", "١s", "0001-01-01T00:00:00+23:59"]
        ),
    ),
    max_size=3,
)  # fmt: skip


def check_result(result: Reply | Failure) -> None:
    """A reply or failure that the record can hold, and whose score is on the scale or none."""
    assert 0 <= result.prompt_tokens <= MAX_TOKENS
    assert 0 <= result.completion_tokens <= MAX_TOKENS
    if isinstance(result, Failure):
        assert result.status not in (Status.SCORED, Status.GATED, Status.EMPTY)
        assert result.retry_after_s is None or result.retry_after_s >= 0
        result.message.encode()
        return
    reading = parse_score(
        result.text, scale=(1, 10), finish_reason=result.finish_reason, refusal=result.refusal
    )
    check(reading.score, reading.status, (1, 10))
    if result.token_logprobs and reading.status is Status.SCORED:
        listed = [
            {
                "token": token.token,
                "logprob": token.logprob,
                "top_logprobs": [{"token": t, "logprob": p} for t, p in token.top],
            }
            for token in result.token_logprobs
        ]
        expected = expected_score(listed, (1, 10), reading.score)
        assert expected is None or 1 <= expected <= 10


@fuzz
@given(bodies, headers, st.integers(200, 599), st.booleans())
def test_a_response_is_a_reply_or_a_failure(
    body: bytes, headers: dict[str, str], status: int, structured: bool
) -> None:
    sent = ["temperature", "max_tokens", "seed", "response_format"] if structured else []
    if status < 300:
        result = read_response(status, headers, body, now=NOW, sent=sent)
    else:
        result = http_failure(status, headers, body, error_class="E", now=NOW, sent=sent)
    event(result.status if isinstance(result, Failure) else "reply")
    check_result(result)


@fuzz
@given(headers)
def test_a_wait_is_a_number_or_none(headers: dict[str, str]) -> None:
    wait_s = retry_after_s(headers, NOW)
    assert wait_s is None or wait_s >= 0


wires = st.one_of(
    st.binary(max_size=80),
    bodies.map(ok),
    damaged(bodies.map(ok)),
    st.builds(
        lambda status, length, body: (
            (
                f"HTTP/1.1 {status} X\r\nContent-Length: {length}\r\nContent-Encoding: gzip\r\n\r\n"
            ).encode()
            + body
        ),
        st.sampled_from(["200", "204", "304", "101", "429", "abc", "-1", "99999"]),
        st.sampled_from(["0", "5", "-1", "x", "9" * 30, "3, 4"]),
        st.binary(max_size=20),
    ),
    st.sampled_from(
        [
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 300,
            b"HTTP/1.1 200 OK\r\nX: " + b"y" * 90_000 + b"\r\n\r\n",
            b"HTTP/1.1 100 Continue\r\n\r\n" * 5,
            b"HTTP/2 200\r\n\r\n",
            b"\x16\x03\x01",
        ]
    ),
)


class Wire:
    """A server whose next answer a test sets, and a client of it."""

    def __init__(self) -> None:
        self.answer = b""
        self.server = RawServer(lambda _: self.answer, close=True)


@pytest.fixture(scope="module")
def wire() -> Iterator[Wire]:
    wire = Wire()
    with wire.server:
        yield wire


@pytest.fixture(scope="module")
def client(wire: Wire) -> Iterator[EndpointClient]:
    config = EndpointConfig(base_url=f"http://127.0.0.1:{wire.server.port}/v1")
    client = EndpointClient("e", config, {})
    yield client
    client.close()


@fuzz
@given(wires)
def test_a_stream_of_bytes_is_a_reply_or_a_failure(
    wire: Wire, client: EndpointClient, answer: bytes
) -> None:
    wire.answer = answer
    request = ChatRequest(model="m", messages=[{"role": "user", "content": "p"}])
    result = client.complete(request, timeout_s=20)
    event(result.error_class if isinstance(result, Failure) else "reply")
    check_result(result)
