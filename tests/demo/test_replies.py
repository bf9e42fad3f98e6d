"""The bytes of each reply, parsed by `http.client`."""

import http.client
import io
import json
import re
import socket
from typing import Any, cast

import pytest

from oyer.demo.replies import Reply, reply_to
from oyer.demo.request_log import RequestEntry
from oyer.demo.responses import ACTIONS, Action, named

MESSAGES = [
    {"role": "system", "content": "Judge the response."},
    {"role": "user", "content": "```\n2 + 2?\n```\n```\n4\n```\n```\n2 + 2 = 4\n```"},
]
BODY = json.dumps({"model": "judge-1", "messages": MESSAGES}).encode()
ARRIVAL = RequestEntry(body=BODY, model="judge-1", arrived_wall_s=1_700_000_000.0)


class Received:
    """Bytes with the socket interface that `http.client` needs."""

    def __init__(self, payload: bytes) -> None:
        self._payload = payload

    def makefile(self, _: str) -> io.BytesIO:
        return io.BytesIO(self._payload)


def parse(reply: Reply) -> http.client.HTTPResponse:
    response = http.client.HTTPResponse(cast(socket.socket, Received(reply.payload)))
    response.begin()
    assert response.status == reply.status
    return response


def completion(action: Action, arrival: RequestEntry = ARRIVAL) -> dict[str, Any]:
    parsed = json.loads(parse(reply_to(arrival, action)).read())
    assert isinstance(parsed, dict)
    return parsed


def choice(action: Action, arrival: RequestEntry = ARRIVAL) -> dict[str, Any]:
    (only,) = completion(action, arrival)["choices"]
    assert isinstance(only, dict)
    return only


def test_the_default_reply_is_a_scored_completion() -> None:
    reply = completion(Action())
    (only,) = reply["choices"]
    assert (reply["object"], reply["model"]) == ("chat.completion", "judge-1")
    assert only["finish_reason"] == "stop"
    assert re.search(r"\nFinal score: (9|10)$", only["message"]["content"])


def test_usage_counts_four_bytes_to_a_token() -> None:
    reply = reply_to(ARRIVAL, Action(text="最终评分: 8"))
    usage = json.loads(parse(reply).read())["usage"]
    assert usage == {
        "prompt_tokens": -(-len(BODY) // 4),
        # Four Chinese characters of three bytes each, and three more bytes.
        "completion_tokens": 4,
        "total_tokens": -(-len(BODY) // 4) + 4,
    }
    assert (reply.prompt_tokens, reply.completion_tokens) == (usage["prompt_tokens"], 4)


def test_texts_of_a_list_are_used_in_turn() -> None:
    action = Action(text=["a", "b"])
    said = [choice(action, RequestEntry(sequence=i))["message"]["content"] for i in range(3)]
    assert said == ["a", "b", "a"]


def test_a_refusal_has_no_content() -> None:
    message = choice(named("refusal"))["message"]
    assert message["content"] is None
    assert message["refusal"]


@pytest.mark.parametrize(
    ("name", "finish_reason"), [("cut_reply", "length"), ("content_filter", "content_filter")]
)
def test_a_reply_can_end_early(name: str, finish_reason: str) -> None:
    assert choice(named(name))["finish_reason"] == finish_reason


@pytest.mark.parametrize(("name", "content"), [("empty_content", ""), ("null_content", None)])
def test_content_can_be_missing(name: str, content: str | None) -> None:
    assert choice(named(name))["message"]["content"] == content


def test_reasoning_is_sent_with_the_content() -> None:
    message = choice(named("reasoning"))["message"]
    assert message["reasoning_content"]
    assert "Final score" in message["content"]


def test_missing_usage_is_still_counted_in_the_log() -> None:
    reply = reply_to(ARRIVAL, named("no_usage"))
    assert "usage" not in json.loads(parse(reply).read())
    assert reply.prompt_tokens > 0


def test_logprobs_offer_candidates_for_the_last_number() -> None:
    top = {"10": -0.2, "9": -1.8}
    only = choice(Action(text="2 of 3 steps.\nFinal score: 10", top_logprobs=top))
    content = only["logprobs"]["content"]
    assert "".join(token["token"] for token in content) == only["message"]["content"]
    assert (content[-1]["token"], content[-1]["logprob"]) == ("10", -0.2)
    assert {c["token"]: c["logprob"] for c in content[-1]["top_logprobs"]} == top
    assert all(len(token["top_logprobs"]) == 1 for token in content[:-1])


ERRORS = [name for name, action in ACTIONS.items() if action.status >= 400]


@pytest.mark.parametrize("name", [*ERRORS, "error_body"])
def test_errors_have_openais_format_and_count_no_tokens(name: str) -> None:
    reply = reply_to(ARRIVAL, named(name))
    assert json.loads(parse(reply).read())["error"].keys() == {"message", "type", "param", "code"}
    assert (reply.prompt_tokens, reply.completion_tokens) == (0, 0)


def test_every_status_that_clients_handle_differently_is_in_the_catalogue() -> None:
    statuses = {ACTIONS[name].status for name in ERRORS}
    assert statuses == {400, 401, 402, 403, 404, 408, 409, 429, 500, 502, 503, 504}


def test_html_can_be_sent_with_200() -> None:
    response = parse(reply_to(ARRIVAL, named("html")))
    assert (response.status, response.headers["Content-Type"]) == (200, "text/html")
    assert response.read().startswith(b"<html>")


def test_a_redirect_points_elsewhere() -> None:
    action = named("redirect", headers={"Location": "http://127.0.0.1:1/v1"})
    response = parse(reply_to(ARRIVAL, action))
    assert (response.status, response.headers["Location"]) == (307, "http://127.0.0.1:1/v1")


@pytest.mark.parametrize(
    ("form", "wait_s", "header", "value"),
    [
        ("seconds", 2, "Retry-After", "2"),
        ("seconds", 0.5, "Retry-After", "0.5"),
        # Rounded up to a whole second, so that it never says too early.
        ("date", 1.5, "Retry-After", "Tue, 14 Nov 2023 22:13:22 GMT"),
        ("ms", 1.5, "retry-after-ms", "1500"),
        ("reset_requests", 0.02, "x-ratelimit-reset-requests", "20ms"),
        ("reset_requests", 90, "x-ratelimit-reset-requests", "1m30s"),
        ("reset_tokens", 3600, "x-ratelimit-reset-tokens", "1h0m0s"),
        ("reset_tokens", 1.5, "x-ratelimit-reset-tokens", "1.5s"),
    ],
)
def test_retry_after_is_sent_in_every_form(
    form: Any, wait_s: float, header: str, value: str
) -> None:
    action = named("rate_limited", retry_after_s=wait_s, retry_after_form=form)
    assert parse(reply_to(ARRIVAL, action)).headers[header] == value


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"{}", b"\xff", b'{"messages": [1]}', b'{"messages": "x"}']
)
def test_a_request_that_the_rule_judge_cannot_read_gets_400(body: bytes) -> None:
    assert reply_to(RequestEntry(body=body), Action()).status == 400
