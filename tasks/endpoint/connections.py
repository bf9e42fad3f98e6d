"""Connections to one server: kept between calls, through a proxy and TLS where needed.

- A free connection is taken from a stack, so that a call costs the same with 10 or 1,000 open.
- Plain blocking sockets: cooperative where gevent has patched them, shared by threads elsewhere.
"""

import base64
import re
import select
import socket
import ssl
import time
import urllib.parse
import weakref
from collections.abc import Mapping

import httpx2
from gevent.monkey import get_original

from oyer.protocol.errors import InvalidConfig
from oyer.tasks.endpoint.proxies import proxy_for
from oyer.tasks.endpoint.tls import NestedTls, ssl_context

CONNECT_TIMEOUT_S = 10.0
"""Longest wait for a connection, in seconds: an unreachable host costs no whole attempt."""

HttpConnection = socket.socket | NestedTls

_POLL = get_original("select", "poll")
_PORTS = {"http": 80, "https": 443}
_MAX_HEAD_BYTES = 65_536
_REASON_PREFIX = re.compile(r"^\[(?:Errno -?\d+|SSL[^\]]*)\] ")


class ConnectionPool:
    """Up to `size` kept connections to the server of `url`.

    Proxies (`HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY`, `NO_PROXY`) and certificate authorities
    (`SSL_CERT_FILE`, `SSL_CERT_DIR`, `REQUESTS_CA_BUNDLE`) are those of `environ`.

    Raises:
        InvalidConfig: on construction; a proxy or a certificate file that cannot be used.
    """

    def __init__(self, url: httpx2.URL, environ: Mapping[str, str], *, size: int) -> None:
        self._host = url.raw_host.decode("ascii")
        self._port = url.port or _PORTS[url.scheme]
        self.address = f"{self._host}:{self._port}"
        """Host and port of the server, for messages."""
        self._size = size
        self._free: list[HttpConnection] = []
        weakref.finalize(self, _close_all, self._free)
        self._tls = ssl_context(environ)
        self._tunnel_head: bytes | None = None
        self.proxy_login: str | None = None
        """Value of Proxy-Authorization."""
        self._proxy = _proxy(url, environ)
        if self._proxy and self._proxy.username:
            user, password = self._proxy.username, self._proxy.password or ""
            self.proxy_login = basic_login(*map(urllib.parse.unquote, (user, password)))
        self.forwards = self._proxy is not None and url.scheme == "http"
        """Whether a proxy forwards requests, which then name the whole URL."""
        self._server_tls = url.scheme == "https"

    def take(self) -> HttpConnection | None:
        """Take a kept connection that is still open; None if there is none."""
        while (connection := _pop(self._free)) is not None:
            if _is_open(connection):
                return connection
            connection.close()
        return None

    def keep(self, connection: HttpConnection) -> None:
        """Keep a connection for another call."""
        if len(self._free) < self._size:
            self._free.append(connection)
        else:
            connection.close()

    def close(self) -> None:
        """Close the kept connections."""
        _close_all(self._free)

    def connect(self, deadline_s: float) -> HttpConnection:
        """Open a connection.

        Args:
            deadline_s: End of the exchange by `time.monotonic`.

        Raises:
            httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.ProxyError: there is no connection.
        """
        limit_s = min(deadline_s - time.monotonic(), CONNECT_TIMEOUT_S)
        deadline_s = time.monotonic() + limit_s
        try:
            if self._proxy is None:
                sock = _open_socket(self._host, self._port, deadline_s)
            else:
                sock = self._open_proxy(self._proxy, deadline_s)
            return self._with_tls(sock) if self._server_tls else sock
        except TimeoutError as error:
            raise httpx2.ConnectTimeout(
                f"no connection to {self.address} within {limit_s:.3g} s"
            ) from error
        except ssl.SSLError as error:
            said = f"TLS with {self.address} failed: {reason(error)}"
            raise httpx2.ConnectError(said) from error
        except socket.gaierror as error:
            said = f"cannot find the host of {self.address}: {reason(error)}"
            raise httpx2.ConnectError(said) from error
        except OSError as error:
            said = f"cannot connect to {self.address}: {reason(error)}"
            raise httpx2.ConnectError(said) from error

    def _with_tls(self, sock: socket.socket) -> HttpConnection:
        hostname = self._host.rstrip(".")
        try:
            if isinstance(sock, ssl.SSLSocket):
                return NestedTls(sock, self._tls, hostname)
            return self._tls.wrap_socket(sock, server_hostname=hostname)
        except BaseException:
            sock.close()
            raise

    def _open_proxy(self, proxy: urllib.parse.SplitResult, deadline_s: float) -> socket.socket:
        host = proxy.hostname or ""
        sock: socket.socket | None = None
        try:
            sock = _open_socket(host, proxy.port or _PORTS[proxy.scheme], deadline_s)
            if proxy.scheme == "https":
                sock = self._tls.wrap_socket(sock, server_hostname=host)
            if self._server_tls:
                self._open_tunnel(sock)
        except BaseException as error:
            if sock is not None:
                sock.close()
            if not isinstance(error, OSError):
                raise
            said = f"cannot reach {self.address} through the proxy: {reason(error)}"
            raise httpx2.ProxyError(said) from error
        return sock

    def _open_tunnel(self, sock: socket.socket) -> None:
        """Let the proxy connect this socket to the server (RFC 9110, 9.3.6)."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        lines = [f"CONNECT {host}:{self._port} HTTP/1.1", f"host: {host}:{self._port}"]
        if self.proxy_login:
            lines.append(f"proxy-authorization: {self.proxy_login}")
        sock.sendall("\r\n".join([*lines, "", ""]).encode("ascii"))
        head = b""
        while b"\r\n\r\n" not in head:
            data = sock.recv(4096)
            head += data
            if not data or len(head) > _MAX_HEAD_BYTES:
                raise ConnectionError("it does not answer CONNECT with an HTTP response")
        status_line = head.partition(b"\r\n")[0].decode("latin-1")
        if not re.match(r"HTTP/1\.\d 2\d\d\b", status_line):
            raise ConnectionError(f"it answers {status_line[:100]!r}")


def basic_login(user: str, password: str) -> str:
    """Encode a user and a password as a value of Authorization (RFC 7617)."""
    return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode('ascii')}"


def reason(error: BaseException) -> str:
    """Return the text of an error without its number."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return _REASON_PREFIX.sub("", str(text))


def _proxy(url: httpx2.URL, environ: Mapping[str, str]) -> urllib.parse.SplitResult | None:
    proxy_url = proxy_for(url, environ)
    if proxy_url is None:
        return None
    proxy = urllib.parse.urlsplit(proxy_url if "://" in proxy_url else f"http://{proxy_url}")
    if proxy.scheme not in _PORTS:
        raise InvalidConfig(
            f"the proxy for {url.host} is {proxy.scheme}://: give an http:// or https:// proxy,"
            " or add the host to NO_PROXY"
        )
    return proxy


def _open_socket(host: str, port: int, deadline_s: float) -> socket.socket:
    """Connect to the first address of `host` that accepts; the timeout of the socket is set."""
    error: OSError = TimeoutError("timed out")
    for family, kind, protocol, _, address in socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM
    ):
        left_s = deadline_s - time.monotonic()
        if left_s <= 0:
            break
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(left_s)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.connect(address)
        except OSError as failed:
            sock.close()
            error = failed
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise error


def _pop(free: list[HttpConnection]) -> HttpConnection | None:
    try:
        return free.pop()
    except IndexError:  # not asked before: another thread may take the last one
        return None


def _close_all(free: list[HttpConnection]) -> None:
    while (connection := _pop(free)) is not None:
        connection.close()


def _is_open(connection: HttpConnection) -> bool:
    """Whether a kept connection has neither been closed nor sent anything unasked.

    A poll that never waits need not be gevent's, which costs ten times as much.
    """
    poll = _POLL()
    poll.register(connection.fileno(), select.POLLIN)
    return not poll.poll(0)
