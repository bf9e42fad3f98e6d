"""HTTP for the judge client: an `httpx2` transport over urllib3's connection pool.

- A connection is taken from a stack, so that a call costs the same with 10 or 1,000 of them
  open; httpcore's pool scans all of them for every call.
- Nothing is retried and no redirect is followed here: a key never reaches another host.
- The `read` timeout bounds the whole exchange, however slowly the reply drips.
- Plain blocking sockets, so it is cooperative wherever gevent has patched them.
"""

import http.client
import io
import os
import select
import socket
import ssl
import time
import urllib.parse
from collections.abc import Iterable, Mapping
from typing import Any

import httpx2
import urllib3
from gevent.monkey import get_original
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import (
    ConnectTimeoutError,
    DecodeError,
    HTTPError,
    NewConnectionError,
    ProtocolError,
    ProxyError,
    ReadTimeoutError,
    SSLError,
)
from urllib3.util import make_headers

from oyer.protocol.errors import InvalidConfig
from oyer.tasks.endpoint.network_errors import plainly
from oyer.tasks.endpoint.proxies import proxy_for

CONNECT_TIMEOUT_S = 10.0
"""Longest wait for a connection, in seconds: an unreachable host costs no whole attempt."""

MAX_REPLY_BYTES = 64 * 2**20
"""Largest reply read from an endpoint, as sent and unpacked; a judge's reply with logprobs stays
under 1 MiB."""

_TOO_LONG = "the reply is longer than {} bytes"
_NOT_PASSED_ON = frozenset({"set-cookie", "content-encoding", "content-length"})


_POLL = get_original("select", "poll")
_ONCE = urllib3.Retry(False, redirect=False)


class _DeadlineReader(io.RawIOBase):
    """The receiving side of a socket: every read shares the time that the socket was given."""

    def __init__(self, sock: socket.socket) -> None:
        timeout_s = sock.gettimeout()
        self._sock = sock
        self._raw: io.RawIOBase = sock.makefile("rb", buffering=0)
        self._deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        self._left_bytes = MAX_REPLY_BYTES

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if self._deadline_s is not None:
            left_s = self._deadline_s - time.monotonic()
            if left_s <= 0:
                raise TimeoutError("the reply was not complete in time")
            self._sock.settimeout(left_s)
        received = self._raw.readinto(buffer)
        self._left_bytes -= received or 0
        if self._left_bytes < 0:
            raise http.client.HTTPException(_TOO_LONG.format(MAX_REPLY_BYTES))
        return received

    def close(self) -> None:
        self._raw.close()
        super().close()


class _DeadlineSocket:
    """What `http.client` sees of a socket: a file to read the reply from."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(_DeadlineReader(self._sock))


class _Response(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        # The wrong type on purpose: of a socket, only `makefile` is used.
        super().__init__(_DeadlineSocket(sock), *args, **kwargs)  # type: ignore[arg-type]


class _HTTPConnection(HTTPConnection):
    response_class = _Response

    @property
    def is_connected(self) -> bool:
        return _is_open(self.sock)


class _HTTPSConnection(HTTPSConnection):
    response_class = _Response

    @property
    def is_connected(self) -> bool:
        return _is_open(self.sock)


def _is_open(sock: socket.socket | None) -> bool:
    """Whether a kept connection has neither been closed nor sent anything unasked.

    A poll that never waits need not be gevent's, which costs ten times as much.
    """
    if sock is None:
        return False
    poll = _POLL()
    poll.register(sock, select.POLLIN)
    return not poll.poll(0)


class _HTTPPool(HTTPConnectionPool):
    ConnectionCls = _HTTPConnection


class _HTTPSPool(HTTPSConnectionPool):
    ConnectionCls = _HTTPSConnection


class PooledTransport(httpx2.BaseTransport):
    """Reaches the origins of `urls` and no other, each over up to `pool_size` kept connections.

    Proxies (`HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY`, `NO_PROXY`) and certificate authorities
    (`SSL_CERT_FILE`, `SSL_CERT_DIR`, `REQUESTS_CA_BUNDLE`) are those of `environ`.

    Raises:
        InvalidConfig: on construction; a proxy or a certificate file that cannot be used.
        httpx2.TransportError: from `handle_request`, for whatever the network does.
    """

    def __init__(self, urls: Iterable[str], environ: Mapping[str, str], *, pool_size: int) -> None:
        parsed = [httpx2.URL(url) for url in urls]
        self._pools = {_origin(url): _pool(url, environ, pool_size) for url in parsed}

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        url, timeout = request.url, request.extensions["timeout"]
        pool = self._pools.get(_origin(url))
        if pool is None:
            raise httpx2.UnsupportedProtocol("not an address of this endpoint", request=request)
        # A proxy is told the whole URL, unless it only opens a tunnel for TLS.
        forwarded = pool.proxy is not None and url.scheme == "http"
        limits = urllib3.Timeout(total=timeout["read"], connect=timeout["connect"])
        try:
            reply = pool.urlopen(
                request.method,
                str(url) if forwarded else url.raw_path.decode("ascii"),
                body=request.read(),
                headers=dict(request.headers.items()),
                timeout=limits,
                retries=_ONCE,
                redirect=False,
                assert_same_host=False,
                preload_content=False,
            )
            content = _unpacked(reply)
        except HTTPError as error:
            said = plainly(error, _address(url), timeout)
            raise _httpx2_error(error)(said, request=request) from error
        except (ValueError, OverflowError) as error:
            # http.client checks no length that a server announces.
            raise httpx2.RemoteProtocolError(
                f"the reply's head cannot be read ({type(error).__name__})", request=request
            ) from error
        # Bytes, as httpx2 takes headers given as text for ASCII; no cookies, so that no reply
        # changes the requests after it; and no encoding, since the content is unpacked already.
        headers = [
            (name.encode("latin-1"), value.encode("latin-1"))
            for name, value in reply.headers.items()
            if name.lower() not in _NOT_PASSED_ON
        ]
        return httpx2.Response(reply.status, headers=headers, content=content)

    def close(self) -> None:
        for pool in self._pools.values():
            pool.close()


def _unpacked(reply: urllib3.BaseHTTPResponse) -> bytes:
    """Read a reply's content, unpacked, and no more of it than `MAX_REPLY_BYTES`.

    urllib3 unpacks no further than what is asked for, so that a small reply cannot fill the memory.
    """
    content = reply.read(MAX_REPLY_BYTES + 1, decode_content=True)
    if len(content) > MAX_REPLY_BYTES:
        reply.close()
        raise ProtocolError(_TOO_LONG.format(MAX_REPLY_BYTES))
    return content


def ssl_context(environ: Mapping[str, str]) -> ssl.SSLContext:
    """Trust the authorities that `environ` names, or else the system's.

    Raises:
        InvalidConfig: a named file or folder cannot be read.
    """
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE"):
        path = environ.get(name)
        if not path:
            continue
        try:
            if os.path.isdir(path):
                return ssl.create_default_context(capath=path)
            return ssl.create_default_context(cafile=path)
        except OSError as error:
            raise InvalidConfig(
                f"{name}={path!r} holds no readable certificates ({error}): correct or unset it"
            ) from error
    return httpx2.create_ssl_context(trust_env=False)


def _origin(url: httpx2.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port


def _address(url: httpx2.URL) -> str:
    return f"{url.host}:{url.port or (443 if url.scheme == 'https' else 80)}"


def _pool(url: httpx2.URL, environ: Mapping[str, str], pool_size: int) -> HTTPConnectionPool:
    options: dict[str, Any] = {"maxsize": pool_size, "ssl_context": ssl_context(environ)}
    proxy_url = proxy_for(url, environ)
    if proxy_url is None:
        manager = urllib3.PoolManager(**options)
    else:
        proxy = urllib.parse.urlsplit(proxy_url if "://" in proxy_url else f"http://{proxy_url}")
        if proxy.scheme not in ("http", "https"):
            raise InvalidConfig(
                f"the proxy for {url.host} is {proxy.scheme}://: give an http:// or https:// proxy,"
                " or add the host to NO_PROXY"
            )
        login = urllib.parse.unquote(f"{proxy.username}:{proxy.password}")
        manager = urllib3.ProxyManager(
            proxy.geturl(),
            proxy_headers=make_headers(proxy_basic_auth=login) if proxy.username else None,
            **options,
        )
    manager.pool_classes_by_scheme = {"http": _HTTPPool, "https": _HTTPSPool}
    return manager.connection_from_url(str(url))


def _httpx2_error(error: HTTPError) -> type[httpx2.RequestError]:
    """The `httpx2` name of what urllib3 reports."""
    cause = error.args[-1] if isinstance(error, ProtocolError) else None
    if isinstance(cause, TimeoutError):
        return httpx2.WriteTimeout
    if isinstance(cause, OSError) and not isinstance(cause, http.client.HTTPException):
        return httpx2.ReadError
    return next(ours for theirs, ours in _ERRORS if isinstance(error, theirs))


_ERRORS: tuple[tuple[type[HTTPError], type[httpx2.RequestError]], ...] = (
    (NewConnectionError, httpx2.ConnectError),
    (ConnectTimeoutError, httpx2.ConnectTimeout),
    (ReadTimeoutError, httpx2.ReadTimeout),
    (ProxyError, httpx2.ProxyError),
    (DecodeError, httpx2.DecodingError),
    (SSLError, httpx2.ConnectError),
    (ProtocolError, httpx2.RemoteProtocolError),
    (HTTPError, httpx2.NetworkError),
)
"""First match wins; `NewConnectionError` is a `ConnectTimeoutError` to urllib3."""
