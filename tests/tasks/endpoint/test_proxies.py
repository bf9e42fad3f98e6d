"""Which proxy serves a URL, and calls through real proxies, with and without TLS."""

import contextlib
import re
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from oyer.protocol.errors import InvalidConfig
from oyer.tasks.endpoint.proxies import proxy_for
from tests.support.certificates import Authority
from tests.support.raw_server import RawServer, ok
from tests.support.tls_tunnel import tunnel
from tests.tasks.endpoint.test_transport import client_of, post


class ConnectProxy:
    """Answers CONNECT and passes on what follows, over any number of connections."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.heads: list[bytes] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            head += client.recv(4096)
        self.heads.append(head)
        target = re.match(rb"CONNECT ([\d.]+):(\d+) ", head)
        assert target
        with client, socket.create_connection((target[1].decode(), int(target[2]))) as server:
            client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            answers = threading.Thread(target=_pump, args=(server, client), daemon=True)
            answers.start()
            _pump(client, server)
            answers.join()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def proxy() -> Iterator[ConnectProxy]:
    proxy = ConnectProxy()
    yield proxy
    proxy.close()


@pytest.mark.parametrize("proxy_tls", [False, True], ids=["http proxy", "https proxy"])
def test_tls_to_the_server_goes_through_the_tunnel(
    proxy: ConnectProxy, proxy_tls: bool, tmp_path: Path
) -> None:
    authority = Authority(tmp_path, "authority")
    identity = authority.issue("127.0.0.1")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(identity.cert, identity.key)
    body = b'{"a": "%s"}' % (b"x" * 300_000)
    with (
        RawServer(lambda _: ok(body), tls=tls) as server,
        tunnel(("127.0.0.1", proxy.port), identity) as tls_proxy,
    ):
        url = f"https://127.0.0.1:{server.port}/v1"
        proxy_url = f"https://u:p@127.0.0.1:{tls_proxy.port}"
        if not proxy_tls:
            proxy_url = f"http://u:p@127.0.0.1:{proxy.port}"
        environ = {"HTTPS_PROXY": proxy_url, "SSL_CERT_FILE": str(authority.cert)}
        with client_of(url, environ) as client:
            for _ in range(2):
                assert client.post(url, content=b"{}" * 100_000, timeout=20).content == body
        assert server.connections == 1
    (head,) = proxy.heads
    assert b"\r\nproxy-authorization: Basic dTpw\r\n" in head
    assert not any(b"proxy-authorization" in request for request in server.requests)


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
        client_of("http://a.example/v1", {"ALL_PROXY": "socks5://p:1"})
