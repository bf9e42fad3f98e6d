"""Statistics of the request log: peaks, windows, duplicates."""

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oyer.demo.request_log import (
    RequestEntry,
    calls_per_content,
    max_in_any_window,
    max_in_flight,
    tokens,
)
from oyer.protocol.errors import InvalidInput


def arrival(at_s: float = 0.0, end_s: float | None = None, **fields: Any) -> RequestEntry:
    return RequestEntry(arrived_at_s=at_s, finished_at_s=end_s, **fields)


SPANS = st.lists(st.tuples(st.integers(0, 20), st.integers(1, 10) | st.none()), max_size=30)


@given(SPANS)
def test_the_peak_is_the_maximum_number_of_overlapping_requests(
    spans: list[tuple[int, int | None]],
) -> None:
    log = [arrival(start, None if length is None else start + length) for start, length in spans]
    at_each_moment = [
        sum(s <= moment and (n is None or moment < s + n) for s, n in spans) for moment in range(32)
    ]
    assert max_in_flight(log) == max(at_each_moment)


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 9))), st.integers(1, 20))
def test_the_fullest_window_ends_at_an_arrival(
    arrivals: list[tuple[int, int]], window_s: int
) -> None:
    log = [arrival(at, prompt_tokens=weight) for at, weight in arrivals]
    sums = [sum(w for at, w in arrivals if end - window_s < at <= end) for end, _ in arrivals]
    assert max_in_any_window(log, window_s, tokens) == max(sums, default=0)


def test_arrivals_a_whole_window_apart_do_not_share_one() -> None:
    assert max_in_any_window([arrival(0.0), arrival(60.0), arrival(60.0)], 60.0) == 2


def test_equal_bodies_are_counted_as_one_content() -> None:
    log = [arrival(body_sha256="a"), arrival(body_sha256="b"), arrival(body_sha256="a")]
    assert calls_per_content(log) == {"a": 2, "b": 1}


def test_an_entry_survives_a_round_trip_through_json() -> None:
    before = arrival(1.5, 2.5, body='{"model": "评审"}'.encode(), action="reset", status=200)
    assert RequestEntry.from_record(json.loads(json.dumps(before.record()))) == before
    hashed = dataclasses.replace(before, body=None)
    assert RequestEntry.from_record(hashed.record()) == hashed


def test_text_parts_of_a_message_are_joined() -> None:
    parts = [
        {"type": "text", "text": "one "},
        {"type": "image_url"},
        {"type": "text", "text": "two"},
    ]
    messages = [{"role": "system", "content": "be just"}, {"role": "user", "content": parts}]
    body = json.dumps({"messages": messages}).encode()
    assert arrival(body=body).messages() == [("system", "be just"), ("user", "one two")]


@pytest.mark.parametrize("body", [None, b"", b"{", b"[]", b"\xff", b'{"messages": [1]}', b"{}"])
def test_an_unreadable_body_is_refused(body: bytes | None) -> None:
    with pytest.raises(InvalidInput):
        arrival(body=body).messages()
