"""HTTP for the judge client: an `httpx2` transport on geventhttpclient's parser (llhttp).

- A request's URL and headers are encoded once. Only the body and the time limit differ by call,
  so that nothing that a library adds is sent, and a key reaches no other host.
- Nothing is retried and no redirect is followed. One exception: a kept connection that turns out
  to be closed before it took the whole request is replaced; the server cannot have acted on it.
- One deadline bounds the whole exchange, however slowly the reply arrives.
"""

import re
import sys
import time
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import httpx2
from geventhttpclient.response import HTTPConnectionClosed, HTTPParseError, HTTPSocketResponse

from oyer.tasks.endpoint.connections import ConnectionPool, HttpConnection, basic_login, reason

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MAX_REPLY_BYTES = 64 * 2**20
"""Largest reply read from an endpoint, as sent and unpacked; a judge's reply with logprobs stays
under 1 MiB."""
_MAX_HEAD_BYTES = 2**20
"""Largest head of a reply, with what is received of the body along with it."""
_CHUNK_BYTES = 65_536

_NOT_PASSED_ON = frozenset({"set-cookie", "content-encoding", "content-length"})


class JudgeTransport(httpx2.BaseTransport):
    """Sends the body of each request to `url` with `headers`, whatever the request names.

    Args:
        headers: Sent with every request; Host and Content-Length are added, and Authorization
            where the URL holds a user.
        environ: Holds proxies and certificate authorities, as for `ConnectionPool`.
        pool_size: Number of connections that are kept.

    Raises:
        InvalidConfig: on construction; a proxy or a certificate file that cannot be used.
        httpx2.TransportError: from `handle_request`, for whatever the network does.
    """

    def __init__(
        self, url: str, headers: Mapping[str, str], environ: Mapping[str, str], *, pool_size: int
    ) -> None:
        self.url = httpx2.URL(url)
        self._pool = ConnectionPool(self.url, environ, size=pool_size)
        self._head = _head(self.url, headers, self._pool)

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Make one exchange; of the timeouts, `read` bounds it."""
        content = request.read()
        limit_s = request.extensions["timeout"]["read"]
        deadline_s = time.monotonic() + limit_s
        message = b"%b%d\r\n\r\n%b" % (self._head, len(content), content)
        try:
            return self._exchange(message, deadline_s)
        except TimeoutError as error:
            said = f"no complete reply from {self._pool.address} within {limit_s:.3g} s"
            raise httpx2.ReadTimeout(said) from error
        except (HTTPParseError, OSError) as error:
            kind = httpx2.ReadError if isinstance(error, OSError) else httpx2.RemoteProtocolError
            said = f"the connection to {self._pool.address} broke: {reason(error)}"
            raise kind(said) from error

    def close(self) -> None:
        """Close the kept connections."""
        self._pool.close()

    def _exchange(self, message: bytes, deadline_s: float) -> httpx2.Response:
        connection = self._pool.take()
        kept = connection is not None
        connection = connection or self._pool.connect(deadline_s)
        try:
            if not _send(connection, message, deadline_s) and kept:
                connection.close()
                connection = self._pool.connect(deadline_s)
                _send(connection, message, deadline_s)
            reply, reusable = _receive(connection, deadline_s)
        except BaseException:
            connection.close()
            raise
        if reusable:
            self._pool.keep(connection)
        else:
            connection.close()
        return reply


class JudgeHttpClient(httpx2.Client):
    """Hands each request's body and time limit to the transport, and nothing else.

    httpx2's own way parses the URL twice, merges headers, cookies and logins, and looks for
    redirects: about a fifth of the CPU of a call, for what `JudgeTransport` does not send.
    """

    def __init__(self, transport: JudgeTransport) -> None:
        super().__init__(transport=transport, trust_env=False)
        self._judge_transport = transport

    def build_request(  # type: ignore[override]  # of the arguments, openai-python gives these
        self, method: str, url: str, *, content: bytes, timeout: float, **_: Any
    ) -> httpx2.Request:
        """Build a request from its body and its time limit, in seconds."""
        return httpx2.Request(
            method,
            self._judge_transport.url,
            stream=httpx2.ByteStream(content),
            extensions={"timeout": {"read": timeout}},
        )

    def send(self, request: httpx2.Request, **_: Any) -> httpx2.Response:
        """Make one exchange, without a redirect."""
        response = self._judge_transport.handle_request(request)
        response.request = request
        return response


class _Receiver:
    """A connection as the parser reads it: within a deadline, and no more than `left_bytes`."""

    def __init__(self, connection: HttpConnection, deadline_s: float) -> None:
        self._connection = connection
        self._deadline_s = deadline_s
        self.left_bytes = min(_MAX_HEAD_BYTES, MAX_REPLY_BYTES)
        self.error: OSError | None = None

    def recv(self, _size: int = 0) -> bytes:
        try:
            self._connection.settimeout(_left_s(self._deadline_s))
            data = self._connection.recv(_CHUNK_BYTES)
        except OSError as error:
            self.error = error
            raise
        self.left_bytes -= len(data)
        if self.left_bytes < 0:
            raise HTTPParseError(_too_long())
        return data

    def close(self) -> None:
        """Leave the connection to the transport, which closes it or keeps it."""


def _send(connection: HttpConnection, message: bytes, deadline_s: float) -> bool:
    """Send a request; False where the server closed the connection before it took all of it.

    Servers may do so after an early reply, which is then there to be read.
    """
    connection.settimeout(_left_s(deadline_s))
    try:
        connection.sendall(message)
    except (BrokenPipeError, ConnectionResetError):
        return False
    return True


def _receive(connection: HttpConnection, deadline_s: float) -> tuple[httpx2.Response, bool]:
    """Read a reply; returns it, and whether the connection can be used again."""
    receiver = _Receiver(connection, deadline_s)
    try:
        reply = HTTPSocketResponse(receiver, method="POST")
    except HTTPConnectionClosed:
        # The parser reports a reset before the first byte as an end.
        if receiver.error is not None:
            raise receiver.error from None
        raise
    receiver.left_bytes += MAX_REPLY_BYTES - _MAX_HEAD_BYTES
    # Not by `reply.read`, which stops early if an interim response (1xx) came before.
    while not reply.message_complete:
        data = receiver.recv()
        reply.feed(data)
        if not data and not reply.message_complete:
            raise HTTPParseError("it ended within the reply")
    fields = list(reply.items())
    encodings = ",".join(value for name, value in fields if name.lower() == "content-encoding")
    content = _unpacked(reply.read(), encodings)
    headers = [
        (name.encode("latin-1"), value.encode("latin-1"))
        for name, value in fields
        if name.lower() not in _NOT_PASSED_ON
    ]
    response = httpx2.Response(reply.status_code, headers=headers, content=content)
    return response, not reply.should_close()


def _unpacked(content: bytes, encodings: str) -> bytes:
    """Unpack a reply's content, and no more of it than `MAX_REPLY_BYTES`.

    No encoding is asked for; some gateways compress all the same.
    """
    for name in reversed(re.split(r"[\s,]+", encodings.lower())):
        if name in ("", "identity"):
            continue
        unpack = _UNPACK.get(name)
        if unpack is None:
            raise httpx2.DecodingError(
                f"the reply has the content-encoding {name!r}, not asked for"
            )
        try:
            content = unpack(content)
        except (zlib.error, zstd.ZstdError, EOFError) as error:
            raise httpx2.DecodingError(f"the reply's {name} cannot be unpacked: {error}") from error
    if len(content) > MAX_REPLY_BYTES:
        raise HTTPParseError(_too_long())
    return content


def _members(content: bytes, unpacker: Callable[[], Any]) -> bytes:
    """Unpack compressed members, of which a reply may hold several, up to one byte too many."""
    unpacked = b""
    while content and len(unpacked) <= MAX_REPLY_BYTES:
        member = unpacker()
        unpacked += member.decompress(content, MAX_REPLY_BYTES + 1 - len(unpacked))
        if not member.eof and len(unpacked) <= MAX_REPLY_BYTES:
            raise EOFError("it is incomplete")
        content = member.unused_data
    return unpacked


def _gunzip(content: bytes) -> bytes:
    return _members(content, lambda: zlib.decompressobj(16 + zlib.MAX_WBITS))


def _inflate(content: bytes) -> bytes:
    # Servers send deflate with and without zlib's header (RFC 9110, 8.4.1.2).
    try:
        return _members(content, zlib.decompressobj)
    except zlib.error:
        return _members(content, lambda: zlib.decompressobj(-zlib.MAX_WBITS))


def _unzstd(content: bytes) -> bytes:
    return _members(content, zstd.ZstdDecompressor)


_UNPACK = {"gzip": _gunzip, "x-gzip": _gunzip, "deflate": _inflate, "zstd": _unzstd}


def _head(url: httpx2.URL, headers: Mapping[str, str], pool: ConnectionPool) -> bytes:
    """Encode the request line and the headers, up to the length of the content."""
    netloc, path = url.netloc.decode("ascii"), url.raw_path.decode("ascii")
    fields: dict[str, Any] = {"host": netloc, "accept-encoding": "identity"}
    fields |= {name.lower(): value for name, value in headers.items()}
    if url.username or url.password:
        fields["authorization"] = basic_login(url.username, url.password)
    if pool.forwards and pool.proxy_login:
        fields["proxy-authorization"] = pool.proxy_login
    fields.pop("content-length", None)
    target = f"{url.scheme}://{netloc}{path}" if pool.forwards else path
    lines = [f"POST {target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join([*lines, "content-length: "]).encode("ascii")


def _left_s(deadline_s: float) -> float:
    left_s = deadline_s - time.monotonic()
    if left_s <= 0:
        raise TimeoutError
    return left_s


def _too_long() -> str:
    return f"the reply is longer than {MAX_REPLY_BYTES} bytes"
