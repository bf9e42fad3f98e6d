"""What the client may send of its host's secrets, and that none of them leaks."""

import json
import logging
import traceback
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from oyer.config.reward import EndpointConfig
from oyer.protocol.errors import InvalidConfig
from oyer.tasks.endpoint.client import EndpointClient
from oyer.tasks.endpoint.types import ChatRequest
from tests.support.raw_server import RawServer, ok

KEY = "planted-key-0123456789"
REQUEST = ChatRequest(model="judge-1", messages=[{"role": "user", "content": "Score this."}])


def client_of(base_url: str, **fields: Any) -> EndpointClient:
    config = EndpointConfig(base_url=base_url, api_key_env="JUDGE_KEY", **fields)
    return EndpointClient("judge", config, {"JUDGE_KEY": KEY})


def test_only_our_headers_are_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("API_KEY", "ADMIN_KEY", "ORG_ID", "PROJECT_ID", "BASE_URL"):
        monkeypatch.setenv(f"OPENAI_{name}", "http://of-another-endpoint")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "Authorization: Bearer other\nX-Other: 1")
    with RawServer(lambda _: ok(b"{}")) as raw:
        url = f"http://127.0.0.1:{raw.port}/v1/?api-version=2"
        client_of(url, headers={"X-Title": "oyer"}).complete(REQUEST, timeout_s=20.0)
        open_server = EndpointClient("open", EndpointConfig(base_url=url), {})
        open_server.complete(REQUEST, timeout_s=20.0)
    with_key, without = ([*r.partition(b"\r\n\r\n")[0].split(b"\r\n")] for r in raw.requests)
    assert with_key[0] == b"POST /v1/chat/completions?api-version=2 HTTP/1.1"
    assert {line.partition(b":")[0].lower() for line in with_key[1:]} == {
        *(b"accept", b"accept-encoding", b"authorization", b"content-length"),
        *(b"content-type", b"host", b"user-agent", b"x-title"),
    }
    assert f"authorization: Bearer {KEY}".encode() in with_key
    assert not any(b"uthorization" in line for line in without)


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({}, "endpoints.judge.api_key_env: JUDGE_KEY is not set"),
        ({"JUDGE_KEY": "  "}, "JUDGE_KEY is not set"),
        ({"JUDGE_KEY": "planted\nkey"}, "set it to the bare key"),
        ({"JUDGE_KEY": "planted-钥"}, "set it to the bare key"),
    ],
)
def test_an_unusable_key_is_refused_at_once(environ: dict[str, str], message: str) -> None:
    config = EndpointConfig(base_url="http://127.0.0.1:1/v1", api_key_env="JUDGE_KEY")
    with pytest.raises(InvalidConfig, match=message) as raised:
        EndpointClient("judge", config, environ)
    assert "planted" not in str(raised.value)


def echo(request: bytes) -> bytes:
    """A 400 whose message repeats the request's head, as a debugging proxy would."""
    message = request.partition(b"\r\n\r\n")[0].decode()
    body = json.dumps({"error": {"message": f"no such route: {message}"}}).encode()
    return ok(body).replace(b"200 OK", b"400 Bad Request")


@pytest.mark.parametrize("answer", [echo, lambda _: b"", lambda _: b"HTTP/1.1 200 OK\r\nbad"])
def test_the_key_appears_nowhere(
    answer: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with RawServer(answer, close=True) as raw:
        url = f"http://user:{KEY}@127.0.0.1:{raw.port}/v1?sig={KEY}"
        client = client_of(url, headers={"X-Secret": KEY})
        outcome = client.complete(REQUEST, timeout_s=20.0)
    assert KEY.encode() in raw.requests[0]
    seen = [repr(outcome), repr(client), str(client), repr(client._clients), caplog.text]
    with pytest.raises(TypeError) as raised:
        client.complete(replace(REQUEST, extra_body={"x": object()}), timeout_s=20.0)
    seen.append("".join(traceback.format_exception(raised.value)))
    assert not any(KEY in text for text in seen)
