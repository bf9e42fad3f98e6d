"""Reading HTTP/1.1 requests out of a stream of bytes, in whatever pieces they arrive.

Only what the judge server needs, so that a request costs microseconds: Content-Length
and chunked bodies, keep-alive, pipelining.
"""

import re
from dataclasses import dataclass

from oyer.protocol.errors import InvalidInput

MAX_HEAD_BYTES = 64 * 1024
"""Longest request line plus headers; more is refused rather than buffered."""

_DECIMAL = re.compile(r"[0-9]{1,12}")
_HEXADECIMAL = re.compile(rb"[0-9A-Fa-f]{1,10}")


@dataclass(frozen=True, slots=True)
class Request:
    """One request, whole."""

    method: str
    path: str
    headers: dict[str, str]
    """Names in lower case; of a name sent twice, the last value."""
    keep_alive: bool
    body: bytes = b""


class RequestReader:
    """Collects bytes and gives back whole requests, in order."""

    def __init__(self) -> None:
        self._buffer = b""
        self._head: Request | None = None

    def feed(self, data: bytes) -> None:
        """Add what was received."""
        self._buffer += data

    @property
    def buffered(self) -> bool:
        """Whether there are bytes that no request has taken yet."""
        return bool(self._buffer)

    def next_request(self) -> Request | None:
        """Take the next whole request; None until more bytes are fed.

        Raises:
            InvalidInput: the bytes are no HTTP/1.x request; the stream is lost.
        """
        if self._head is None:
            text, end, rest = self._buffer.partition(b"\r\n\r\n")
            if len(text) > MAX_HEAD_BYTES:
                raise InvalidInput(f"the request's head is longer than {MAX_HEAD_BYTES} bytes")
            if not end:
                return None
            self._head, self._buffer = _parse_head(text.decode("latin-1")), rest
        head = self._head
        taken = _take_body(head.headers, self._buffer)
        if taken is None:
            return None
        body, used = taken
        self._head, self._buffer = None, self._buffer[used:]
        return Request(head.method, head.path, head.headers, head.keep_alive, body)


def _parse_head(head: str) -> Request:
    request_line, *lines = head.lstrip("\r\n").split("\r\n")
    try:
        method, path, version = request_line.split(" ")
    except ValueError:
        raise InvalidInput(f"not a request line: {request_line[:80]!r}") from None
    if not version.startswith("HTTP/1."):
        raise InvalidInput(f"not HTTP/1.x: {version[:20]!r}")
    headers = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon:
            raise InvalidInput(f"not a header: {line[:80]!r}")
        headers[name.lower()] = value.strip()
    connection = headers.get("connection", "").lower()
    keep_alive = connection != "close" and (version != "HTTP/1.0" or connection == "keep-alive")
    return Request(method, path, headers, keep_alive)


def _take_body(headers: dict[str, str], buffer: bytes) -> tuple[bytes, int] | None:
    """The body at the start of the buffer and the bytes it takes; None when incomplete."""
    if headers.get("transfer-encoding", "").lower() == "chunked":
        return _take_chunks(buffer)
    declared = headers.get("content-length", "0")
    if not _DECIMAL.fullmatch(declared):
        raise InvalidInput(f"not a Content-Length: {declared[:40]!r}")
    length = int(declared)
    return (buffer[:length], length) if len(buffer) >= length else None


def _take_chunks(buffer: bytes) -> tuple[bytes, int] | None:
    chunks: list[bytes] = []
    start = 0
    while (line_end := buffer.find(b"\r\n", start)) >= 0:
        declared = buffer[start:line_end].partition(b";")[0].strip()
        if not _HEXADECIMAL.fullmatch(declared):
            raise InvalidInput(f"not a chunk size: {declared[:40]!r}")
        size = int(declared, 16)
        start = line_end + 2
        if size == 0:
            # Trailers, if any, end with an empty line of their own.
            end = buffer.find(b"\r\n\r\n", line_end)
            return (b"".join(chunks), end + 4) if end >= 0 else None
        chunks.append(buffer[start : start + size])
        start += size + 2
        if start > len(buffer):
            return None
    return None
