"""A stream yields complete requests in order, however it is divided into reads."""

import contextlib
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oyer.demo.http import MAX_HEAD_BYTES, RequestReader
from oyer.protocol.errors import InvalidInput

PIPELINED = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"
    b"GET /v1/models HTTP/1.1\r\nHost: a\r\n\r\n"
    b"POST /c HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"4;ext=1\r\nchun\r\n3\r\nked\r\n0\r\nTrailer: x\r\n\r\n"
    b"POST /d HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n1\r\n!\r\n0\r\n\r\n"
    b"GET /e HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n"
    b"GET /f HTTP/1.0\r\n\r\n"
)
REQUESTS = [
    ("POST", "/v1/chat/completions", b"hello", True),
    ("GET", "/v1/models", b"", True),
    ("POST", "/c", b"chunked", True),
    ("POST", "/d", b"!", True),
    ("GET", "/e", b"", True),
    ("GET", "/f", b"", False),
]


@given(st.lists(st.integers(0, len(PIPELINED)), max_size=30))
def test_pipelined_requests_are_read_however_the_stream_is_divided(cuts: list[int]) -> None:
    reader = RequestReader()
    read = []
    edges = [0, *sorted(cuts), len(PIPELINED)]
    for start, end in itertools.pairwise(edges):
        reader.feed(PIPELINED[start:end])
        while request := reader.next_request():
            read.append((request.method, request.path, request.body, request.keep_alive))
    assert read == REQUESTS
    assert not reader.buffered


def test_a_request_that_closes_its_connection_is_read_before_later_bytes_are_refused() -> None:
    reader = RequestReader()
    reader.feed(b"GET /a HTTP/1.1\r\nConnection: close\r\n\r\nGET /b HTTP/1.1\r\n\r\n")
    request = reader.next_request()
    assert request is not None
    assert (request.path, request.keep_alive) == ("/a", False)
    with pytest.raises(InvalidInput):
        reader.next_request()


def test_header_names_are_lower_case_and_values_stripped() -> None:
    reader = RequestReader()
    reader.feed(b"GET / HTTP/1.1\r\nX-Name:  value \r\n\r\n")
    request = reader.next_request()
    assert request is not None
    assert request.headers == {"x-name": "value"}


@pytest.mark.parametrize(
    "stream",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/2\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"x" * MAX_HEAD_BYTES,
    ],
)
def test_invalid_requests_are_refused(stream: bytes) -> None:
    reader = RequestReader()
    reader.feed(stream)
    with pytest.raises(InvalidInput):
        reader.next_request()


@given(st.binary())
def test_no_bytes_raise_anything_else(stream: bytes) -> None:
    reader = RequestReader()
    reader.feed(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + stream)
    with contextlib.suppress(InvalidInput):
        while reader.next_request():
            pass
