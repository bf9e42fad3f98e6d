"""Network errors and wrong addresses are recorded as plain text."""

import socket
from collections.abc import Iterator

import pytest

from oyer.config.reward import EndpointConfig
from oyer.demo.judge_server import JudgeServer
from oyer.demo.responses import named
from oyer.tasks.endpoint.client import EndpointClient
from oyer.tasks.endpoint.types import ChatRequest, Failure
from tests.support.raw_server import RawServer

REQUEST = ChatRequest(
    model="m", messages=[{"role": "user", "content": "x"}], temperature=0.0, max_tokens=1
)


def failure(url: str, timeout_s: float = 20.0, environ: dict[str, str] | None = None) -> Failure:
    client = EndpointClient("e", EndpointConfig(base_url=url), environ or {})
    try:
        outcome = client.complete(REQUEST, timeout_s=timeout_s)
    finally:
        client.close()
    assert isinstance(outcome, Failure)
    assert "HTTPConnection" not in outcome.message
    assert "Pool" not in outcome.message
    assert "(host=" not in outcome.message
    return outcome


@pytest.fixture
def silent() -> Iterator[int]:
    """A port that accepts connections and sends nothing."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


@pytest.fixture
def closed() -> Iterator[int]:
    """A port without a listener."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


def test_a_refused_connection_names_the_address(closed: int) -> None:
    message = failure(f"http://127.0.0.1:{closed}/v1").message
    assert message == f"cannot connect to 127.0.0.1:{closed}: Connection refused"


def test_an_unknown_host_is_named() -> None:
    message = failure("http://no-such-host.invalid/v1").message
    assert message.startswith("cannot find the host of no-such-host.invalid:80: ")


def test_a_time_out_names_its_limit(silent: int) -> None:
    message = failure(f"http://127.0.0.1:{silent}/v1", timeout_s=0.25).message
    assert message == f"no complete reply from 127.0.0.1:{silent} within 0.25 s"


def test_a_broken_connection_is_named() -> None:
    with RawServer(lambda _: b"", close=True) as server:
        message = failure(f"http://127.0.0.1:{server.port}/v1").message
    assert message.startswith(f"the connection to 127.0.0.1:{server.port} broke: ")


def test_an_unreachable_proxy_is_named(closed: int) -> None:
    proxy = {"HTTP_PROXY": f"http://127.0.0.1:{closed}"}
    message = failure("http://judge.example/v1", environ=proxy).message
    assert message == "cannot reach judge.example:80 through the proxy: Connection refused"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("", "/chat/completions (is `/v1` missing at the end of base_url?): "),
        ("/v2", "/v2/chat/completions: "),
    ],
)
def test_a_404_names_the_address_without_its_secrets(path: str, message: str) -> None:
    with JudgeServer(named("not_found")) as server:
        place = server.base_url.removeprefix("http://").removesuffix("/v1")
        failed = failure(f"http://user:secret-pw@{place}{path}?api_key=secret-key")
    assert failed.message.startswith(f"HTTP 404 from http://{place}{message}")
    assert "secret" not in failed.message
