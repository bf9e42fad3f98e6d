"""Reads HTTP/1.x requests from a stream of bytes, by httptools (the parser of Node.js, in C)."""

from collections import deque
from dataclasses import dataclass

import httptools

from oyer.protocol.errors import InvalidInput

MAX_HEAD_BYTES = 64 * 1024
"""Maximum size of a request line with headers."""


@dataclass(frozen=True, slots=True)
class Request:
    """A complete request."""

    method: str
    path: str
    headers: dict[str, str]
    """Names in lower case; the last value of a repeated name."""
    keep_alive: bool
    body: bytes = b""


class RequestReader:
    """Collects bytes and returns complete requests, in order."""

    def __init__(self) -> None:
        self._requests: deque[Request] = deque()
        self._error: InvalidInput | None = None
        self._parser = httptools.HttpRequestParser(self)
        self.on_message_begin()

    def feed(self, data: bytes) -> None:
        """Parse received bytes."""
        if self._error is not None:
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._error = InvalidInput(f"not an HTTP/1.x request: {error}")
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._error = InvalidInput(f"request head: is over {MAX_HEAD_BYTES} bytes")

    @property
    def buffered(self) -> bool:
        """Whether `next_request` has something to return or raise."""
        return bool(self._requests or self._error)

    def next_request(self) -> Request | None:
        """Return the next complete request; None until more bytes are fed.

        Raises:
            InvalidInput: the bytes are not an HTTP/1.x request; the connection cannot continue.
        """
        if self._requests:
            return self._requests.popleft()
        if self._error is not None:
            raise self._error
        return None

    # Called by the parser.

    def on_message_begin(self) -> None:
        """Start a request."""
        self._url = b""
        self._headers: dict[str, str] = {}
        self._body: list[bytes] = []
        self._in_head = True
        self._head_bytes = 0

    def on_url(self, part: bytes) -> None:
        """Add a part of the request target."""
        self._url += part

    def on_header(self, name: bytes, value: bytes) -> None:
        """Add a header; trailers, which follow the body, are ignored."""
        if self._in_head:
            self._headers[name.decode("latin-1").lower()] = value.decode("latin-1").strip()

    def on_headers_complete(self) -> None:
        """End the head."""
        self._in_head = False

    def on_body(self, part: bytes) -> None:
        """Add a part of the body."""
        self._body.append(part)

    def on_message_complete(self) -> None:
        """Queue the request."""
        self._requests.append(
            Request(
                self._parser.get_method().decode(),
                self._url.decode("latin-1"),
                self._headers,
                self._parser.should_keep_alive(),
                b"".join(self._body),
            )
        )
