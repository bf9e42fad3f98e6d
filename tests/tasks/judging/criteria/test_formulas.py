"""Each formula against an implementation of its own."""

from fractions import Fraction
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oyer.config.criteria.criterion import Combine
from oyer.tasks.judging.criteria.formulas import Weighed, combined

WEIGHTS = st.sampled_from([-3.0, -1.0, -0.5, 0.25, 1.0, 2.0, 5.0])
VALUES = st.sampled_from([0.0, 0.25, 0.5, 1.0])
VERDICTS = st.lists(st.builds(Weighed, WEIGHTS, VALUES, st.just(False)), min_size=1, max_size=8)


def expected(how: str, verdicts: list[Weighed]) -> float | None:
    """Compute a score in exact numbers, straight from the definition."""
    w = [Fraction(one.weight) for one in verdicts]
    v = [Fraction(one.value or 0) for one in verdicts]
    goods = [value if weight > 0 else 1 - value for weight, value in zip(w, v, strict=True)]
    n = len(verdicts)
    score: Any
    if how == "weighted":
        score = sum(abs(w[i]) * goods[i] for i in range(n)) / sum(map(abs, w))
    elif how == "points":
        possible = sum(weight for weight in w if weight > 0)
        score = sum(w[i] * v[i] for i in range(n)) / possible if possible else None
    elif how == "signed":
        score = sum(w[i] * v[i] for i in range(n)) / sum(map(abs, w))
    elif how == "mean":
        score = sum(goods) / n
    else:
        score = {"min": min(goods), "all": int(min(goods) == 1), "any": int(max(goods) == 1)}[how]
    return None if score is None else float(score)


@pytest.mark.parametrize("how", get_args(Combine))
@given(verdicts=VERDICTS)
def test_a_formula_is_its_definition(how: Combine, verdicts: list[Weighed]) -> None:
    assert combined(how, verdicts) == pytest.approx(expected(how, verdicts))


@pytest.mark.parametrize("how", get_args(Combine))
@given(verdicts=VERDICTS)
def test_a_missing_verdict_is_left_out_and_never_0(how: Combine, verdicts: list[Weighed]) -> None:
    with_gap = [*verdicts, Weighed(1.0, None)]
    assert combined(how, with_gap) is None
    assert combined(how, with_gap, min_valid=len(verdicts)) == pytest.approx(
        expected(how, verdicts)
    )
    assert combined(how, with_gap, min_valid=len(verdicts) + 1) is None


@pytest.mark.parametrize("how", get_args(Combine))
@given(verdicts=VERDICTS)
def test_an_unmet_requirement_limits_the_score_to_0(how: Combine, verdicts: list[Weighed]) -> None:
    gated = combined(how, [*verdicts, Weighed(1.0, 0.5, required=True)])
    assert gated is not None
    assert gated <= 0
    met = combined(how, [*verdicts, Weighed(1.0, 1.0, required=True)])
    assert met == pytest.approx(expected(how, [*verdicts, Weighed(1.0, 1.0)]))
    missing = [*verdicts, Weighed(1.0, None, required=True)]
    assert combined(how, missing, min_valid=1) is None


def test_healthbench_counts_met_faults_and_does_not_clip() -> None:
    verdicts = [Weighed(5, 1.0), Weighed(5, 0.0), Weighed(-8, 1.0)]
    assert combined("points", verdicts) == pytest.approx(-0.3)
    assert combined("weighted", [Weighed(3, 1.0), Weighed(-1, 0.0)]) == 1.0
