"""The transport over real sockets: pool, time limits, proxies, certificates, broken servers."""

import gzip
import ssl
import threading
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest

from oyer.protocol.errors import InvalidConfig
from oyer.tasks.endpoint import transport
from oyer.tasks.endpoint.proxies import proxy_for
from oyer.tasks.endpoint.transport import PooledTransport
from tests.support.paths import SUPPORT
from tests.support.raw_server import RawServer, ok

CERTIFICATE = SUPPORT.joinpath("loopback.pem")


def post(
    url: str,
    environ: dict[str, str] | None = None,
    *,
    timeout_s: float = 20.0,
    reached_as: PooledTransport | None = None,
) -> httpx2.Response:
    pool = reached_as or PooledTransport([url], environ or {}, pool_size=8)
    with httpx2.Client(transport=pool, trust_env=False) as client:
        return client.post(url, content=b"{}", timeout=timeout_s)


def test_a_connection_is_kept_between_calls() -> None:
    with RawServer(lambda _: ok(b"{}")) as server:
        url = f"http://127.0.0.1:{server.port}/v1"
        pool = PooledTransport([url], {}, pool_size=8)
        with httpx2.Client(transport=pool, trust_env=False) as client:
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
        pool = PooledTransport([url], {}, pool_size=20)
        with httpx2.Client(transport=pool, trust_env=False) as client:
            for _ in range(3):
                list(threads.map(lambda _: client.post(url, content=b"{}"), range(20)))
        assert server.connections == 20


def test_a_connection_that_the_server_closed_is_replaced() -> None:
    with RawServer(lambda _: ok(b"{}"), close=True) as server:
        url = f"http://127.0.0.1:{server.port}/v1"
        pool = PooledTransport([url], {}, pool_size=8)
        with httpx2.Client(transport=pool, trust_env=False) as client:
            for _ in range(3):
                assert client.post(url, content=b"{}").status_code == 200
                server.wait_for_end()


@pytest.mark.parametrize(
    "answer",
    [
        ok(b'{"a": 1}'),
        ok(gzip.compress(b'{"a": 1}'), b"Content-Encoding: gzip"),
        b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n{"a"\r\n4\r\n: 1}\r\n0\r\n\r\n',
        b'HTTP/1.0 200 OK\r\n\r\n{"a": 1}',
    ],
    ids=["plain", "gzip", "chunked", "until the end"],
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
    ],
)
def test_a_broken_reply_is_an_httpx2_error(answer: bytes, error: type[httpx2.RequestError]) -> None:
    with RawServer(lambda _: answer, close=True) as server, pytest.raises(error):
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


def test_no_other_host_is_reached() -> None:
    pool = PooledTransport(["http://127.0.0.1:1/v1"], {}, pool_size=8)
    with pytest.raises(httpx2.UnsupportedProtocol):
        post("http://127.0.0.1:2/v1", reached_as=pool)


def test_the_proxy_of_the_environment_is_used_and_logged_into() -> None:
    with RawServer(lambda _: ok(b"{}")) as proxy:
        environ = {"HTTP_PROXY": f"http://user:p%40ss@127.0.0.1:{proxy.port}"}
        assert post("http://judge.invalid/v1", environ).status_code == 200
    (request,) = proxy.requests
    assert request.startswith(b"POST http://judge.invalid/v1 HTTP/1.1\r\n")
    assert b"\r\nproxy-authorization: Basic dXNlcjpwQHNz\r\n" in request


def test_tls_goes_through_a_tunnel_of_the_proxy() -> None:
    refusal = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"
    with RawServer(lambda _: refusal, close=True) as proxy:
        environ = {"HTTPS_PROXY": f"127.0.0.1:{proxy.port}"}
        with pytest.raises(httpx2.ProxyError):
            post("https://judge.invalid/v1", environ)
    (request,) = proxy.requests
    assert request.startswith(b"CONNECT judge.invalid:443 HTTP/1.")


@pytest.mark.parametrize(
    ("url", "environ", "proxy"),
    [
        ("http://a.example/v1", {}, None),
        ("http://a.example/v1", {"HTTP_PROXY": "http://p:1"}, "http://p:1"),
        ("https://a.example/v1", {"HTTP_PROXY": "http://p:1"}, None),
        ("https://a.example/v1", {"https_proxy": "http://p:1"}, "http://p:1"),
        (
            "https://a.example/v1",
            {"HTTPS_PROXY": "http://p:1", "https_proxy": "http://q:1"},
            "http://q:1",
        ),
        ("https://a.example/v1", {"HTTPS_PROXY": "http://p:1", "https_proxy": ""}, None),
        ("http://a.example/v1", {"ALL_PROXY": "http://p:1"}, "http://p:1"),
        ("http://a.example/v1", {"HTTP_PROXY": "http://p:1", "NO_PROXY": "*"}, None),
        ("http://a.example/v1", {"HTTP_PROXY": "http://p:1", "NO_PROXY": ".example"}, None),
        (
            "http://a.example:81/v1",
            {"HTTP_PROXY": "http://p:1", "no_proxy": "b, a.example:81"},
            None,
        ),
        (
            "http://a.example/v1",
            {"HTTP_PROXY": "http://p:1", "NO_PROXY": "b.example"},
            "http://p:1",
        ),
    ],
)
def test_which_proxy_serves_a_url(url: str, environ: dict[str, str], proxy: str | None) -> None:
    assert proxy_for(httpx2.URL(url), environ) == proxy


@pytest.mark.parametrize(
    ("host", "no_proxy", "direct"),
    [
        ("127.0.0.1:8000", "localhost,127.0.0.0/8", True),
        ("10.1.2.3", "10.0.0.0/8 192.168.0.0/16", True),
        ("192.168.7.1", "10.0.0.0/8 192.168.0.0/16", True),
        ("11.1.2.3", "10.0.0.0/8,192.168.0.0/16", False),
        ("10.1.2.3", "10.1.2.9/24", True),
        ("10.1.2.3", "10.1.2.3", True),
        ("10.1.2.3", "10.1.2.30", False),
        ("10.1.2.3:81", "10.1.2.3:81", True),
        ("10.1.2.3:82", "10.1.2.3:81", False),
        ("10.1.2.3", "2.3", False),
        ("10.1.2.3", "10.1.2", False),
        ("[::1]:8000", "::1", True),
        ("[::1]:8000", "[::1]", True),
        ("[::1]:8000", "[::1]:8000", True),
        ("[::1]:8000", "[::1]:8001", False),
        ("[::1]", "0:0:0:0:0:0:0:1", True),
        ("[fd12::7]", "fd00::/8", True),
        ("[fd12::7]", "[fd00::]/8", True),
        ("[fe80::7]", "fd00::/8", False),
        ("[::1]", "127.0.0.0/8", False),
        ("[::ffff:10.0.0.5]", "10.0.0.0/8", True),
        ("a.example", "10.0.0.0/8,::/0", False),
        ("judge.corp.example", "corp.example", True),
        ("judge.corp.example", ".corp.example", True),
        ("judge.corp.example", "*.corp.example", True),
        ("judge.corp.example.", "CORP.example", True),
        ("corp.example", ".corp.example", True),
        ("judgecorp.example", "corp.example", False),
        ("a.example", "a.example:80", True),
        ("a.example", "a.example:443", False),
        ("a.example", ",, ", False),
        ("a.example", "999.0.0.0/8,[,a.example:x,10.0.0.0/99", False),
    ],
)
def test_no_proxy_names_hosts_addresses_ranges_and_ports(
    host: str, no_proxy: str, direct: bool
) -> None:
    environ = {"HTTP_PROXY": "http://p:1", "NO_PROXY": no_proxy}
    proxy = proxy_for(httpx2.URL(f"http://{host}/v1"), environ)
    assert proxy == (None if direct else "http://p:1")


def test_a_proxy_that_cannot_be_used_is_refused_at_once() -> None:
    with pytest.raises(InvalidConfig, match=r"socks5://.*NO_PROXY"):
        PooledTransport(["http://a.example/v1"], {"ALL_PROXY": "socks5://p:1"}, pool_size=8)


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
        PooledTransport(["https://a.example/v1"], {"SSL_CERT_FILE": missing}, pool_size=8)
