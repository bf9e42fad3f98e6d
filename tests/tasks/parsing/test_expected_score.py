"""The expected score is the mean of the token distribution, or None."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oyer.tasks.parsing.expected_score import expected_score

ON_TEN = (1, 10)


def token(text: str, **alternatives: float) -> dict[str, Any]:
    listed = {key.lstrip("_"): p for key, p in alternatives.items()} or {text: 1.0}
    return {
        "token": text,
        "logprob": math.log(max(listed.values())),
        "top_logprobs": [{"token": t, "logprob": math.log(p)} for t, p in listed.items()],
    }


LEAD = [token("Final"), token(" score"), token(": ")]


def test_the_mean_is_over_valid_scores_and_renormalised() -> None:
    tokens = [*LEAD, token("8", _8=0.5, _7=0.25, _A=0.15, _11=0.1)]
    assert expected_score(tokens, (1, 9), 8) == pytest.approx((8 * 0.5 + 7 * 0.25) / 0.75)


def test_ten_as_one_token_counts_as_ten() -> None:
    tokens = [*LEAD, token("10", _10=0.6, _1=0.2, _9=0.2)]
    assert expected_score(tokens, ON_TEN, 10) == pytest.approx(6 + 0.2 + 1.8)


def test_ten_in_two_tokens_is_divided_by_the_next_token() -> None:
    tokens = [*LEAD, token("1", _1=0.6, _9=0.4), {**token("0"), **token("0", _0=0.75)}]
    tokens[-1]["top_logprobs"].append({"token": "\n", "logprob": math.log(0.25)})
    assert expected_score(tokens, ON_TEN, 10) == pytest.approx(0.45 * 10 + 0.15 * 1 + 0.4 * 9)


def test_an_alternative_without_a_probability_is_absent() -> None:
    unsure = [token("7", **{"7": 0.6, "9": 0.4})]
    unsure[0]["top_logprobs"].append({"token": "1", "logprob": math.nan})
    assert expected_score(unsure, (1, 9), 7) == pytest.approx(0.6 * 7 + 0.4 * 9)


def test_an_unresolved_ten_gives_none() -> None:
    assert expected_score([*LEAD, token("9", _9=0.8, _1=0.2)], ON_TEN, 9) is None
    assert expected_score([*LEAD, token("9", _9=0.999, _1=0.001)], ON_TEN, 9) is not None
    assert expected_score([*LEAD, token("5", _5=0.8, _1=0.2)], (1, 5), 5) == pytest.approx(4.2)


@pytest.mark.parametrize(
    ("tokens", "scale", "score"),
    [
        ([], ON_TEN, 8),
        ([*LEAD, token("8")], (0, 0.5), 8),
        ([*LEAD, token("8"), token(".5")], ON_TEN, 8.5),
        ([*LEAD, token("8"), token(" of 9")], ON_TEN, 8),
        ([*LEAD, token("8", _8=0.3, _A=0.6)], ON_TEN, 8),
        ([*LEAD, token(":8")], ON_TEN, 8),
        ([*LEAD, {"token": "8", "logprob": 0.0}], ON_TEN, 8),
    ],
)
def test_an_unclear_distribution_gives_none(
    tokens: list[dict[str, Any]], scale: tuple[float, float], score: float
) -> None:
    assert expected_score(tokens, scale, score) is None


def test_a_denominator_is_not_a_second_number() -> None:
    tokens = [*LEAD, token(" 8", _8=0.5, _6=0.5), token("/"), token("10")]
    assert expected_score(tokens, (1, 9), 8) == pytest.approx(7)


@given(st.lists(st.floats(0.01, 1), min_size=9, max_size=9))
def test_the_expected_score_lies_on_the_scale(weights: list[float]) -> None:
    total = sum(weights)
    listed = {f"_{i + 1}": weight / total for i, weight in enumerate(weights)}
    expected = expected_score([*LEAD, token("5", **listed)], (1, 9), 5)
    assert expected is not None
    assert 1 <= expected <= 9
