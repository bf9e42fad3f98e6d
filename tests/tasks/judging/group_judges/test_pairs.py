"""Net win rates, compared with an independent count."""

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oyer.config.group_judge import PairChunks
from oyer.tasks.judging.group_judges.pairs import records
from oyer.tasks.judging.group_judges.schedule import comparisons


@st.composite
def tournaments(draw: st.DrawFn) -> tuple[int, dict[tuple[int, int], int]]:
    n = draw(st.integers(1, 12))
    kinds: list[str | PairChunks] = ["circular", "all", PairChunks(chunks=3)]
    pairs = draw(st.sampled_from(kinds))
    found = comparisons(n, pairs, both_orders=draw(st.booleans())) if n > 1 else []
    return n, {pair: draw(st.sampled_from([-1, 0, 1])) for pair in found}


def expected_rate(i: int, outcomes: dict[tuple[int, int], int]) -> float:
    """The net win rate by the definition, one opponent after the other."""
    won = lost = met = 0
    for other in {k for pair in outcomes if i in pair for k in pair} - {i}:
        views = [outcomes[i, other]] if (i, other) in outcomes else []
        views += [-outcomes[other, i]] if (other, i) in outcomes else []
        met += 1
        won += all(view == 1 for view in views)
        lost += all(view == -1 for view in views)
    return (won - lost) / met if met else 0.0


@given(tournament=tournaments())
def test_rates_follow_the_definition(tournament: tuple[int, dict[tuple[int, int], int]]) -> None:
    n, outcomes = tournament
    rates = [record.rate for record in records(n, outcomes)]
    assert rates == pytest.approx([expected_rate(i, outcomes) for i in range(n)])
    assert all(-1 <= rate <= 1 for rate in rates)


@given(tournament=tournaments())
def test_rates_change_sign_if_every_comparison_does(
    tournament: tuple[int, dict[tuple[int, int], int]],
) -> None:
    n, outcomes = tournament
    flipped = {pair: -outcome for pair, outcome in outcomes.items()}
    rates = [record.rate for record in records(n, outcomes)]
    assert [record.rate for record in records(n, flipped)] == [-rate for rate in rates]


@given(tournament=tournaments())
def test_wins_and_losses_balance(tournament: tuple[int, dict[tuple[int, int], int]]) -> None:
    found = records(*tournament)
    assert sum(record.wins for record in found) == sum(record.losses for record in found)


@given(tournament=tournaments(), data=st.data())
def test_names_of_the_responses_make_no_difference(
    tournament: tuple[int, dict[tuple[int, int], int]], data: st.DataObject
) -> None:
    n, outcomes = tournament
    names = data.draw(st.permutations(range(n)))
    renamed = {(names[a], names[b]): outcome for (a, b), outcome in outcomes.items()}
    assert [records(n, renamed)[names[i]] for i in range(n)] == records(n, outcomes)


def test_a_win_counts_only_if_both_orders_agree() -> None:
    outcomes = dict.fromkeys(combinations(range(3), 2), 1)
    always_the_first = outcomes | {(b, a): 1 for a, b in outcomes}
    assert [record.rate for record in records(3, always_the_first)] == [0, 0, 0]
    assert [record.rate for record in records(3, outcomes)] == [1, 0, -1]
