"""Token ids survive encoding; marker search equals a Python loop."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oyer.protocol.errors import MessageRefused
from oyer.protocol.packing import pack
from oyer.protocol.token_ids import TokenIds, checked, decode, encode

IDS = st.lists(st.integers(0, 2**31 - 1), max_size=12)


def rows_of(packed: TokenIds) -> list[list[int]]:
    return [row.tolist() for row in np.split(packed.ids, packed.offsets[1:-1])]


def packed(rows: list[list[int]]) -> TokenIds:
    found = TokenIds.of_all(rows)
    assert found is not None
    return found


@given(st.lists(st.lists(IDS, min_size=1, max_size=5), min_size=1, max_size=4))
def test_ids_survive_encoding(chunks: list[list[list[int]]]) -> None:
    blobs = [encode([checked(row) for row in chunk]) for chunk in chunks]
    read = decode(blobs)
    assert rows_of(read) == [row for chunk in chunks for row in chunk]
    assert read.ids.dtype == np.int32


def test_no_rows_give_no_ids() -> None:
    assert len(decode([encode([])]).lengths) == 0


@given(st.lists(IDS, min_size=1), st.data())
def test_rows_are_picked_in_any_order(rows: list[list[int]], data: st.DataObject) -> None:
    chosen = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1))
    assert rows_of(packed(rows).pick(np.array(chosen))) == [rows[i] for i in chosen]


def first(row: list[int], marker: list[int]) -> int:
    places = range(len(row) - len(marker) + 1)
    return next((i for i in places if row[i : i + len(marker)] == marker), -1)


@given(
    st.lists(st.lists(st.integers(0, 2), max_size=8), min_size=1, max_size=6),
    st.lists(st.integers(0, 2), min_size=1, max_size=3),
)
def test_first_finds_the_first_position_of_a_marker(
    rows: list[list[int]], marker: list[int]
) -> None:
    assert packed(rows).first(marker).tolist() == [first(row, marker) for row in rows]


@pytest.mark.parametrize("ids", [[1, 2], (1, 2), np.array([1, 2], np.uint16), range(1, 3)])
def test_common_sequence_types_become_an_array(ids: Any) -> None:
    assert checked(ids).tolist() == [1, 2]


@pytest.mark.parametrize("ids", [[1.5], [-1], [2**31], [[1], [2]], ["a"], [True], [None]])
def test_invalid_token_ids_are_refused(ids: Any) -> None:
    with pytest.raises(ValueError, match=r"holds "):
        checked(ids)


def test_one_row_without_ids_gives_none() -> None:
    assert TokenIds.of_all([[1], None]) is None


@pytest.mark.parametrize(
    "body", [b"", b"abc", np.array([2, 1, 1, 5], np.int32).tobytes(), b"\xff" * 8]
)
def test_foreign_bytes_are_refused(body: bytes) -> None:
    planes = np.frombuffer(body, np.uint8)
    body = planes.reshape(-1, 4).T.tobytes() if len(body) % 4 == 0 and body else body
    with pytest.raises(MessageRefused, match=r"submit again"):
        decode([pack(body)])
