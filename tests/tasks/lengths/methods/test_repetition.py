"""Penalties on repetition: units, dead zone, spans, detectors."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oyer.tasks.lengths import Inputs, compute, evaluate, pack

LOOP = [7, 8, 9] * 5 + [10]


def test_a_unit_is_a_token_a_word_or_a_character() -> None:
    texts = ["Da da da", "答答答答"]
    assert evaluate("repetition", {"ngram_size": 1, "unit": "words"}, {"texts": texts}) == [
        pytest.approx(-2 / 3),
        0.0,
    ]
    assert evaluate("repetition", {"ngram_size": 1, "unit": "chars"}, {"texts": texts}) == [
        pytest.approx(-4 / 8),
        pytest.approx(-3 / 4),
    ]
    assert evaluate("repetition", {"ngram_size": 1}, {"token_ids": [[5, 5], [5, 6]]}) == [-0.5, 0]


def test_token_ids_are_the_default_unit() -> None:
    both = Inputs(token_ids=pack([[1, 2, 3]]), texts=["da da da"])
    assert compute("repetition", {"ngram_size": 1}, both).values.tolist() == [0.0]
    words = compute("repetition", {"ngram_size": 1, "unit": "words"}, both)
    assert words.values.tolist() == pytest.approx([-2 / 3])


@settings(deadline=None)
@given(st.lists(st.integers(0, 4), max_size=50), st.floats(0, 0.9), st.integers(1, 6))
def test_the_dead_zone_is_subtracted_from_the_repeated_share(
    row: list[int], dead_zone: float, n: int
) -> None:
    windows = [tuple(row[i : i + n]) for i in range(len(row) - n + 1)]
    repeated = 1 - len(set(windows)) / len(windows) if windows else 0.0
    params = {"ngram_size": n, "dead_zone": dead_zone, "max_penalty": -2.0}
    expected = -2.0 * max(0.0, repeated - dead_zone)
    assert evaluate("repetition", params, {"token_ids": [row]}) == [pytest.approx(expected)]


@settings(deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 3), max_size=30), max_size=4),
    st.integers(1, 5),
    st.booleans(),
)
def test_dense_penalties_cover_the_repeated_ngrams(
    rows: list[list[int]], n: int, only_start: bool
) -> None:
    params = {"ngram_size": n, "only_start": only_start, "penalty": -1.0}
    expected = []
    for row in rows:
        seen: set[tuple[int, ...]] = set()
        marked, running = [0.0] * len(row), False
        for i in range(len(row) - n + 1):
            window = tuple(row[i : i + n])
            repeated = window in seen
            if repeated and not (only_start and running):
                marked[i : i + n] = [-1.0] * n
            running = repeated
            seen.add(window)
        expected.append(marked)
    assert evaluate("repetition_dense", params, {"token_ids": rows}) == expected


def test_dense_penalties_are_packed_like_the_tokens() -> None:
    term = compute("repetition_dense", {"ngram_size": 3}, Inputs(token_ids=pack([LOOP, [1, 2]])))
    assert term.kind == "per_token"
    assert term.values.tolist() == [0.0] * 3 + [-0.05] * 12 + [0.0] * 3


def test_an_onset_before_the_end_means_a_repetition() -> None:
    rows = [LOOP, list(range(16)), [], [1]]
    onset = evaluate("laser_ngram_repetition_onset", {"n": 4}, {"token_ids": rows})
    assert onset[0] < 16
    assert onset[1:] == [16, 0, 1]


def test_a_loop_is_found_only_at_a_multiple_of_its_size() -> None:
    texts = ["p q r " * 4, "w " + "p q r " * 4, "w w " + "p q r " * 4, ""]
    found = evaluate("consecutive_ngram_loop", {"max_ngram": 30}, {"texts": texts})
    assert found == [[4, 3], [3, 3], [3, 3], [0, 0]]


def test_cosine_penalises_repetition_in_wrong_answers_only() -> None:
    inputs = {"lengths": [0, 0], "correct": [1, 0], "token_ids": [[5] * 4, [5] * 4]}
    params = {"max_len": 100, "repetition_max_penalty": -1.0, "repetition_ngram_size": 1}
    assert evaluate("cosine", params, inputs) == [1.0, -1.75]
