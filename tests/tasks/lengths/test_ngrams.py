"""Exact counts of n-grams against Python sets, with good, weak and broken hashes."""

import inspect
import json
from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from oyer.tasks.lengths import ngrams, pack
from oyer.tasks.lengths.arrays import Array
from oyer.tasks.lengths.ngrams import count_distinct, mark_repeats
from tests.support.devices import DEVICES

Row = Sequence[int]

ROWS = st.one_of(
    st.lists(st.integers(0, 3), max_size=60),
    st.lists(st.integers(0, 151_935), max_size=30),
    st.lists(st.integers(0, 2**31 - 1), max_size=30),
    st.builds(
        lambda row, times: row * times, st.lists(st.integers(0, 9), max_size=9), st.integers(1, 9)
    ),
)

OUT_OF_MEMORY = pytest.mark.parametrize(
    ("device", "error"),
    [(None, MemoryError), *((device, torch.OutOfMemoryError) for device in DEVICES)],
    ids=["numpy", *map(str, DEVICES)],
)

BROKEN: dict[str, Callable[[Array, Array], Array] | None] = {
    "sound": None,
    "constant": lambda left, right: 0 * left,
    "blind to order": lambda left, right: left + right,
    "three bits": lambda left, right: (31 * left + right) & 7,
    "blind to the second part": lambda left, right: left,
}


def distinct(row: Row, n: int) -> int:
    return len({tuple(row[i : i + n]) for i in range(len(row) - n + 1)})


def repeats(row: Row, n: int) -> list[bool]:
    seen: set[tuple[int, ...]] = set()
    marks = []
    for i in range(len(row)):
        window = tuple(row[i : i + n])
        marks.append(len(window) == n and window in seen)
        seen.add(window)
    return marks


def check(rows: Sequence[Row], n: int, max_windows: int, broken: str) -> None:
    for device in (None, *DEVICES):
        check_on(device, rows, n, max_windows, broken)


def check_on(
    device: torch.device | None, rows: Sequence[Row], n: int, max_windows: int, broken: str
) -> None:
    join, tokens = BROKEN[broken], pack(rows, device)
    found, windows = count_distinct(tokens, n, max_windows=max_windows, join=join)
    assert found.tolist() == [distinct(row, n) for row in rows]
    assert windows.tolist() == [max(0, len(row) - n + 1) for row in rows]
    marks = mark_repeats(tokens, n, max_windows=max_windows, join=join)
    assert marks.tolist() == [mark for row in rows for mark in repeats(row, n)]


@settings(deadline=None)
@given(
    st.lists(ROWS, max_size=8),
    st.sampled_from([1, 2, 3, 4, 5, 8, 20, 40]),
    st.sampled_from([1, 40, 2**26]),
    st.sampled_from(sorted(BROKEN)),
)
def test_counts_match_python_sets(
    rows: list[list[int]], n: int, max_windows: int, broken: str
) -> None:
    check(rows, n, max_windows, broken)


def thue_morse(length: int) -> list[int]:
    return [(i).bit_count() % 2 for i in range(length)]


ADVERSARIAL = {
    "all equal": [[7] * 500],
    "period of one less than n": [list(range(19)) * 20],
    "period of n": [list(range(20)) * 20],
    "one token changed": [list(range(100)) + list(range(50)) + [1] + list(range(51, 100))],
    "Thue-Morse": [thue_morse(2048)],
    "largest ids": [[2**31 - 1, 2**31 - 2] * 50, [2**31 - 1] * 50],
    "same n-grams in every row": [list(range(40)), list(range(40)), list(range(40)) * 2],
    "ids that pack to the same bits": [[0, 1, 0, 1, 1, 0, 2, 0, 1] * 9],
    "rows of every length": [[1, 2] * half for half in range(30)],
}


@pytest.mark.parametrize("broken", sorted(BROKEN))
@pytest.mark.parametrize("n", [1, 3, 4, 20, 40])
@pytest.mark.parametrize("case", sorted(ADVERSARIAL))
def test_adversarial_rows_are_counted_exactly(case: str, n: int, broken: str) -> None:
    check(ADVERSARIAL[case], n, 2**26, broken)


@pytest.mark.parametrize("n", [1, 3, 8, 20, 40])
def test_real_text_is_counted_exactly(n: int) -> None:
    texts = [inspect.getsource(module) for module in (json, inspect, ngrams)]
    check([[ord(character) for character in text] for text in texts], n, 2**26, "sound")


def test_a_colliding_hash_is_detected_and_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    ranked: list[int] = []
    rank = ngrams._dense_rank

    def logged(codes: Array) -> Array:
        ranked.append(len(codes))
        return rank(codes)

    monkeypatch.setattr(ngrams, "_dense_rank", logged)
    row = list(range(300)) * 2
    assert count_distinct(pack([row]), 20)[0].tolist() == [distinct(row, 20)]
    assert not ranked
    broken = count_distinct(pack([row]), 20, join=BROKEN["three bits"])
    assert broken[0].tolist() == [distinct(row, 20)]
    assert ranked


def test_the_hash_depends_on_the_order() -> None:
    left, right = torch.arange(1000)[None], torch.arange(1000, 2000)[None]
    forward, backward = ngrams._hash_join(left, right), ngrams._hash_join(right, left)
    assert len({*forward.flatten().tolist(), *backward.flatten().tolist()}) == 2000


@OUT_OF_MEMORY
def test_running_out_of_memory_halves_the_chunk(
    device: torch.device | None, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [[1, 2, 3, 1, 2, 3, i] for i in range(16)]
    tried: list[int] = []
    sort = ngrams._sorted_rows

    def small_memory(keys: Array) -> Array:
        tried.append(len(keys))
        if len(keys) > 3:
            raise error("too small")
        return sort(keys)

    monkeypatch.setattr(ngrams, "_sorted_rows", small_memory)
    found, _ = count_distinct(pack(rows, device), 3)
    assert found.tolist() == [distinct(row, 3) for row in rows]
    assert tried[0] == 16
    assert sorted(size for size in tried if size <= 3) == [2] * 8


@OUT_OF_MEMORY
def test_a_row_that_does_not_fit_into_memory_is_an_error(
    device: torch.device | None, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(keys: Array) -> Array:
        raise error("none left")

    monkeypatch.setattr(ngrams, "_sorted_rows", no_memory)
    with pytest.raises(error, match=r"none left"):
        count_distinct(pack([[1, 2, 3], [4, 5, 6]], device), 2)


def test_chunks_hold_at_most_the_stated_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    areas: list[int] = []
    sort = ngrams._sorted_rows

    def logged(keys: Array) -> Array:
        areas.append(keys.size)
        return sort(keys)

    monkeypatch.setattr(ngrams, "_sorted_rows", logged)
    rows = [[7, 8] * 10 for _ in range(50)]
    count_distinct(pack(rows), 3, max_windows=100)
    assert max(areas) == 90
    assert sum(areas) == 50 * 18
