"""Which comparisons a group judge makes, and in which order it shows responses."""

from collections import Counter
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oyer.config.group_judge import PairChunks
from oyer.tasks.judging.group_judges.schedule import comparisons, lists, shuffled

ANY_PAIRS = st.one_of(
    st.sampled_from(["circular", "all"]), st.builds(PairChunks, chunks=st.integers(2, 12))
)


@pytest.mark.parametrize(
    ("pairs", "n", "calls"),
    [
        ("circular", 2, 1),
        ("circular", 3, 3),
        ("circular", 16, 16),
        ("all", 2, 1),
        ("all", 16, 120),
        (PairChunks(chunks=4), 8, 12),
        (PairChunks(chunks=4), 16, 24),
        (PairChunks(chunks=4), 32, 48),
        (PairChunks(chunks=2), 5, 4),
    ],
)
def test_number_of_calls(pairs: str | PairChunks, n: int, calls: int) -> None:
    assert len(comparisons(n, pairs, both_orders=False)) == calls
    assert len(comparisons(n, pairs, both_orders=True)) == 2 * calls


@given(n=st.integers(2, 40), pairs=ANY_PAIRS, both=st.booleans())
def test_comparisons_are_distinct_and_cover_every_response(
    n: int, pairs: str | PairChunks, both: bool
) -> None:
    found = comparisons(n, pairs, both_orders=both)
    assert len(set(found)) == len(found)
    assert {i for pair in found for i in pair} == set(range(n))
    assert all(a != b for a, b in found)
    unordered = Counter(frozenset(pair) for pair in found)
    assert set(unordered.values()) == ({2} if both else {1})
    if pairs == "all":
        assert set(unordered) == {frozenset(pair) for pair in combinations(range(n), 2)}


@given(n=st.integers(2, 40), chunk=st.integers(2, 12))
def test_chunks_are_linear_in_the_group(n: int, chunk: int) -> None:
    # In chunks of 2, an odd group has one chunk of 3.
    largest = max(chunk, 3)
    found = comparisons(n, PairChunks(chunks=chunk), both_orders=False)
    assert len(found) <= n * (largest - 1) / 2
    assert max(abs(a - b) for a, b in found) < largest


@given(n=st.integers(3, 40))
def test_a_circle_shows_each_response_once_first_and_once_second(n: int) -> None:
    found = comparisons(n, "circular", both_orders=False)
    assert sorted(a for a, _ in found) == sorted(b for _, b in found) == list(range(n))


@given(texts=st.lists(st.text(), unique=True, max_size=8), salt=st.text(), data=st.data())
def test_the_order_depends_on_the_responses_only(
    texts: list[str], salt: str, data: st.DataObject
) -> None:
    again = data.draw(st.permutations(texts))
    assert [texts[i] for i in shuffled(texts, salt)] == [again[i] for i in shuffled(again, salt)]


def test_the_order_is_another_for_another_sample() -> None:
    texts = [f"response {i}" for i in range(8)]
    orders = {tuple(shuffled(texts, str(sample))) for sample in range(20)}
    assert len(orders) > 10
    assert {order[0] for order in orders} == set(range(8))


@given(
    sizes=st.lists(st.integers(0, 50), min_size=1, max_size=30),
    limit=st.one_of(st.none(), st.integers(1, 200)),
)
def test_lists_share_the_first_response_and_fit(sizes: list[int], limit: int | None) -> None:
    found = lists(sizes, limit)
    assert sorted(i for one in found for i in one if i) == list(range(1, len(sizes)))
    assert all(one[0] == 0 for one in found)
    for one in found:
        assert limit is None or sum(sizes[i] for i in one) <= limit or len(one) <= 2
        assert len(one) >= min(2, len(sizes))
    if limit is None or sum(sizes) <= limit:
        assert len(found) == 1
