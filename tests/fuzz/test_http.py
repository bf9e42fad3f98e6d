"""`oyer serve` answers any request with 200, or with 4xx and a reason."""

import asyncio
import json
import logging
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from oyer.manager import RewardManager
from oyer.server import ServerSettings, create_app
from tests.fuzz.conftest import fuzz
from tests.support.fuzz_values import any_text, damaged, json_like, mutated
from tests.support.scripted_backend import scripted_backend
from tests.support.served_app import Served, served

ANSWER_S = 60.0
"""A request that is not answered by then hangs."""

MAX_BODY = 200_000

BODIES = {
    "/v1/score": {
        "rollouts": [
            {
                "prompt": [{"role": "user", "content": "2 + 3?"}],
                "response": "5",
                "group_id": "g",
                "base_score": 1.0,
                "response_tokens": 3,
                "token_ids": [1, 2],
                "correct": True,
                "truncated": False,
                "reference": "5",
                "metadata": {"k": [1, {"a": None}]},
            }
        ],
        "run": "r",
        "step": 1,
    },
    "/get_reward": {"query": ["2 + 3? 5"], "prompts": ["2 + 3?"], "labels": ["5"]},
    "/rm": {"prompt": "2 + 3?", "response": "5", "label": "5"},
}

_HUGE = [
    "9" * 5000,
    "-" + "9" * 400,
    "1e999",
    "NaN",
    "-Infinity",
    "1" + "0" * 30,
    "0.1e-999",
    "[" * 5000,
]
_ODD_JSON = [
    '"\\ud800"',
    '"\\u0000"',
    "{}",
    "[]",
    "null",
    '""',
    "true",
    '{"a":1,"a":2}',
    "[[[[[[[[]]]]]]]]",
]

paths = st.sampled_from(
    [*BODIES, *BODIES, "/v1/score?key=a&key=%ff", "/rm?key=", "/rm?key=%00%ed%a0%80"]
)


def _write(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")


@st.composite
def requests(draw: Any) -> tuple[str, bytes]:
    """A path and a body: right but for something."""
    path = draw(paths)
    body = BODIES[path.partition("?")[0]]
    kind = draw(st.integers(0, 5))
    if kind == 0:
        return path, draw(st.binary(max_size=80))
    if kind == 1:
        return path, _write(draw(json_like))
    if kind == 2:
        return path, draw(damaged(st.just(_write(body))))
    if kind == 3:
        # A value spelled as no writer of JSON would.
        text = json.dumps(body)
        spots = [i for i, char in enumerate(text) if char in '15"tnf']
        at = draw(st.sampled_from(spots))
        odd = draw(st.sampled_from(_HUGE + _ODD_JSON))
        return path, (text[:at] + odd + text[at + 1 :]).encode()
    if kind == 4:
        values = st.sampled_from(_HUGE + _ODD_JSON)
        marked = json.dumps(draw(mutated(body, bad=st.just("@@"))))
        return path, marked.replace('"@@"', draw(values)).encode()
    return path, _write(draw(mutated(body)))


headers = st.dictionaries(
    st.sampled_from(["content-type", "content-length", "authorization", "accept", "x-odd", "host"]),
    st.one_of(
        st.sampled_from(
            ["text/xml", "application/json", "multipart/form-data", "-1", "abc", "9" * 99]
        ),
        any_text,
    ).map(lambda text: text.encode("latin-1", "replace")),
    max_size=2,
)


@pytest.fixture(scope="module")
def manager(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RewardManager]:
    with scripted_backend(tmp_path_factory.mktemp("fuzz-http")) as (manager, _):
        yield manager


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    """One event loop for all requests, as a server has."""
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def app(manager: RewardManager) -> Any:
    return create_app(manager, ServerSettings(max_body_bytes=MAX_BODY))


async def call(app: Any, path: str, body: bytes, headers: dict[str, bytes]) -> tuple[int, bytes]:
    """Make one request of an ASGI app, the body in two parts."""
    where, _, query = path.partition("?")
    half = len(body) // 2
    parts = [
        {"type": "http.request", "body": body[:half], "more_body": True},
        {"type": "http.request", "body": body[half:], "more_body": False},
    ]
    sent: list[Any] = []
    never = asyncio.Event()

    async def receive() -> Any:
        if not parts:
            await never.wait()  # a client that waits for its answer sends nothing more
        return parts.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": where,
        "raw_path": where.encode(),
        "query_string": query.encode(),
        "headers": [(name.encode(), value) for name, value in headers.items()],
        "http_version": "1.1",
        "scheme": "http",
        "server": ("127.0.0.1", 80),
        "client": ("127.0.0.1", 1),
    }
    async with asyncio.timeout(ANSWER_S):
        await app(scope, receive, send)
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])


@fuzz
@given(requests(), headers)
def test_a_body_is_answered_with_a_reward_or_a_reason(
    app: Any, runner: asyncio.Runner, request: tuple[str, bytes], headers: dict[str, bytes]
) -> None:
    status, answer = runner.run(call(app, *request, headers))
    event(str(status))
    assert status in (200, 413, 422), (status, answer[:200])
    if status != 200:
        error = json.loads(answer)["error"]
        assert 0 < len(error) < 3000, error[:200]


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """Bytes of a client: a request, cut or damaged anywhere."""
    path, body = draw(requests())
    length = draw(st.sampled_from([len(body), len(body), len(body) + 9, max(0, len(body) - 3)]))
    head = (
        f"POST {path} HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    )
    whole = head.encode() + body
    if draw(st.booleans()):
        return draw(damaged(st.just(whole)))
    chunked = b"POST /rm HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
    return draw(st.sampled_from([whole, whole[: len(whole) // 2], chunked + b"zz\r\n" + body]))


@pytest.fixture(scope="module")
def server(manager: RewardManager) -> Iterator[Served]:
    with served(manager, max_body_bytes=MAX_BODY) as server:
        yield server


def exchange(port: int, stream: bytes) -> bytes:
    """Send bytes, say that there are no more, and read what comes back."""
    with socket.create_connection(("127.0.0.1", port), timeout=ANSWER_S) as client:
        answer = b""
        try:
            client.sendall(stream)
            client.shutdown(socket.SHUT_WR)
            while part := client.recv(65536):
                answer += part
        except ConnectionError:
            # The server may close the connection before it has read all bytes.
            return answer
        return answer


def test_a_stream_of_bytes_never_brings_a_500(
    server: Served, caplog: pytest.LogCaptureFixture
) -> None:
    @fuzz
    @given(streams())
    def run(stream: bytes) -> None:
        answer = exchange(server.port, stream)
        event(answer[9:12].decode("latin-1"))
        assert not answer[9:12].startswith(b"5"), answer[:300]

    caplog.set_level(logging.WARNING)
    run()
    assert not [r for r in caplog.records if r.levelno >= logging.ERROR], caplog.text[:2000]
    assert server.post("/rm", BODIES["/rm"]).status == 200
