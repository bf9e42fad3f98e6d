"""The transport over real sockets: pool, time limits, certificates, broken servers."""

import gzip
import socket
import ssl
import threading
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest

from oyer.protocol import packing
from oyer.protocol.errors import InvalidConfig
from oyer.tasks.endpoint import connections, transport
from oyer.tasks.endpoint.transport import JudgeTransport
from tests.support.paths import SUPPORT
from tests.support.raw_server import RawServer, ok

CERTIFICATE = SUPPORT.joinpath("loopback.pem")


def client_of(url: str, environ: dict[str, str] | None = None, pool_size: int = 8) -> httpx2.Client:
    transport = JudgeTransport(url, {}, environ or {}, pool_size=pool_size)
    return httpx2.Client(transport=transport, trust_env=False)


def post(
    url: str, environ: dict[str, str] | None = None, *, timeout_s: float = 20.0
) -> httpx2.Response:
    with client_of(url, environ) as client:
        return client.post(url, content=b"{}", timeout=timeout_s)


def test_a_connection_is_kept_between_calls() -> None:
    with RawServer(lambda _: ok(b"{}")) as server:
        url = f"http://127.0.0.1:{server.port}/v1"
        with client_of(url) as client:
            for _ in range(5):
                assert client.post(url, content=b"{}").status_code == 200
        assert (len(server.requests), server.connections) == (5, 1)


def test_the_pool_keeps_as_many_connections_as_calls_may_be_in_flight() -> None:
    together = threading.Barrier(20)

    def answer(_: bytes) -> bytes:
        together.wait(20)
        return ok(b"{}")

    with RawServer(answer) as server, ThreadPoolExecutor(20) as threads:
        url = f"http://127.0.0.1:{server.port}/v1"
        with client_of(url, pool_size=20) as client:
            for _ in range(3):
                list(threads.map(lambda _: client.post(url, content=b"{}"), range(20)))
        assert server.connections == 20


def test_a_connection_that_the_server_closed_is_replaced() -> None:
    with RawServer(lambda _: ok(b"{}"), close=True) as server:
        url = f"http://127.0.0.1:{server.port}/v1"
        with client_of(url) as client:
            for _ in range(3):
                assert client.post(url, content=b"{}").status_code == 200
                server.wait_for_end()


def test_a_kept_connection_that_fails_before_the_request_is_sent_is_replaced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connections, "_is_open", lambda _: True)
    with RawServer(lambda _: ok(b"{}")) as server:
        url = f"http://127.0.0.1:{server.port}/v1"
        transport = JudgeTransport(url, {}, {}, pool_size=8)
        with httpx2.Client(transport=transport, trust_env=False) as client:
            assert client.post(url, content=b"{}").status_code == 200
            kept = transport._pool._free[0]
            assert isinstance(kept, socket.socket)
            kept.shutdown(socket.SHUT_WR)
            assert client.post(url, content=b"{}").status_code == 200
        assert (len(server.requests), server.connections) == (2, 2)


def test_a_request_that_was_sent_is_not_repeated() -> None:
    """The server may have acted on it: another attempt is for the retry policy to decide."""

    def answer(_: bytes) -> bytes:
        if len(server.requests) == 2:
            raise ConnectionError("the server ends the connection")
        return ok(b"{}")

    with RawServer(answer) as server:
        url = f"http://127.0.0.1:{server.port}/v1"
        with client_of(url) as client:
            assert client.post(url, content=b"{}").status_code == 200
            with pytest.raises(httpx2.RemoteProtocolError):
                client.post(url, content=b"{}")
        assert (len(server.requests), server.connections) == (2, 1)


@pytest.mark.parametrize(
    "answer",
    [
        ok(b'{"a": 1}'),
        ok(gzip.compress(b'{"a"') + gzip.compress(b": 1}"), b"Content-Encoding: gzip"),
        ok(gzip.compress(b'{"a": 1}'), b"Content-Encoding: gzip"),
        b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n{"a"\r\n4\r\n: 1}\r\n0\r\n\r\n',
        b'HTTP/1.0 200 OK\r\n\r\n{"a": 1}',
    ],
    ids=["plain", "two members", "gzip", "chunked", "until the end"],
)
def test_each_encoding_of_a_body_is_read(answer: bytes) -> None:
    with RawServer(lambda _: answer, close=True) as server:
        assert post(f"http://127.0.0.1:{server.port}/v1").json() == {"a": 1}


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"", httpx2.RemoteProtocolError),
        (b"HTTP/1.", httpx2.RemoteProtocolError),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}", httpx2.RemoteProtocolError),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            httpx2.RemoteProtocolError,
        ),
        (b"SSH-2.0-OpenSSH_9.6\r\n", httpx2.RemoteProtocolError),
        (ok(b"{}", b"Content-Encoding: gzip"), httpx2.DecodingError),
        (ok(gzip.compress(b"{}")[:-9], b"Content-Encoding: gzip"), httpx2.DecodingError),
        (ok(packing.zstd.compress(b"{}")[:-1], b"Content-Encoding: zstd"), httpx2.DecodingError),
        (ok(b"{}", b"Content-Encoding: br"), httpx2.DecodingError),
    ],
)
def test_a_broken_reply_is_an_httpx2_error(answer: bytes, error: type[httpx2.RequestError]) -> None:
    with RawServer(lambda _: answer, close=True) as server, pytest.raises(error):
        post(f"http://127.0.0.1:{server.port}/v1")


@pytest.mark.parametrize("rest_at_once", [True, False])
def test_an_interim_response_is_skipped(rest_at_once: bool) -> None:
    interim = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    final = ok(b'{"a": 1}')
    answer, rest = (interim + final, b"") if rest_at_once else (interim, final)
    with RawServer(lambda _: answer, drip=rest) as server:
        assert post(f"http://127.0.0.1:{server.port}/v1").json() == {"a": 1}


def test_a_head_without_end_is_cut_off() -> None:
    endless = b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * (2 * 2**20)
    too_long = pytest.raises(httpx2.RemoteProtocolError, match="longer than")
    with RawServer(lambda _: endless, close=True) as server, too_long:
        post(f"http://127.0.0.1:{server.port}/v1")


def test_a_refused_connection_is_a_connect_error() -> None:
    with RawServer(lambda _: b"") as server:
        url = f"http://127.0.0.1:{server.port}/v1"
    with pytest.raises(httpx2.ConnectError):
        post(url)


def test_a_reply_without_end_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "MAX_REPLY_BYTES", 100_000)
    endless = b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 200_000
    too_long = pytest.raises(httpx2.RemoteProtocolError, match="longer than 100000 bytes")
    with RawServer(lambda _: endless, close=True) as server, too_long:
        post(f"http://127.0.0.1:{server.port}/v1")


@pytest.mark.parametrize(
    ("encoding", "pack"),
    [
        (b"gzip", gzip.compress),
        (b"deflate", zlib.compress),
        (b"deflate", lambda data: zlib.compress(data, wbits=-zlib.MAX_WBITS)),
        (b"zstd", packing.zstd.compress),
        (b"gzip, gzip", lambda data: gzip.compress(gzip.compress(data))),
    ],
)
@pytest.mark.parametrize("status", [200, 400])
def test_a_reply_is_as_long_as_it_is_unpacked(
    monkeypatch: pytest.MonkeyPatch,
    encoding: bytes,
    pack: Callable[[bytes], bytes],
    status: int,
) -> None:
    monkeypatch.setattr(transport, "MAX_REPLY_BYTES", 100_000)
    bodies = {size: pack(b" " * (size - 2) + b"{}") for size in (100_000, 100_001)}
    assert max(map(len, bodies.values())) < 1_000

    def answer(request: bytes) -> bytes:
        size = 100_000 if b"/fits" in request else 100_001
        reply = ok(bodies[size], b"Content-Encoding: " + encoding)
        return reply.replace(b" 200 OK", b" %d X" % status)

    with RawServer(answer) as server:
        url = f"http://127.0.0.1:{server.port}"
        assert post(f"{url}/fits").json() == {}
        with pytest.raises(httpx2.RemoteProtocolError, match="longer than 100000 bytes"):
            post(f"{url}/too-long")


@pytest.mark.parametrize("drip_head", [True, False])
def test_a_reply_that_drips_ends_at_the_time_limit(drip_head: bool) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n"
    first = head if drip_head else head + b"\r\n"
    each = b"X-More: 1\r\n" if drip_head else b"x"
    with RawServer(lambda _: first, drip=each) as server, pytest.raises(httpx2.ReadTimeout):
        post(f"http://127.0.0.1:{server.port}/v1", timeout_s=0.3)


def test_a_request_reaches_the_configured_url_alone() -> None:
    with RawServer(lambda _: ok(b"{}")) as server:
        url = f"http://127.0.0.1:{server.port}/v1?sig=1"
        with client_of(url) as client:
            headers = {"Authorization": "Bearer other", "Host": "other"}
            assert client.post("http://127.0.0.1:1/v2", content=b"{}", headers=headers)
    (request,) = server.requests
    assert request.startswith(b"POST /v1?sig=1 HTTP/1.1\r\nhost: 127.0.0.1:%d\r\n" % server.port)
    assert b"other" not in request


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"])
def test_a_certificate_authority_of_the_environment_is_trusted(variable: str) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(CERTIFICATE)
    with RawServer(lambda _: ok(b"{}"), tls=tls) as server:
        url = f"https://127.0.0.1:{server.port}/v1"
        assert post(url, {variable: str(CERTIFICATE)}).status_code == 200
        with pytest.raises(httpx2.ConnectError, match="certificate"):
            post(url)


def test_a_certificate_file_that_cannot_be_read_is_refused_at_once(tmp_path: Path) -> None:
    missing = str(tmp_path / "none.pem")
    with pytest.raises(InvalidConfig, match=r"SSL_CERT_FILE.*correct or unset"):
        client_of("https://a.example/v1", {"SSL_CERT_FILE": missing})
