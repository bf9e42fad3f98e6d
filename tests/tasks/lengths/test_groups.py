"""Statistics of groups against the standard library's and NumPy's."""

import math
import statistics
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from oyer.tasks.lengths.arrays import double, to_numpy
from oyer.tasks.lengths.groups import Groups
from tests.support.devices import DEVICES

ROWS = st.lists(
    st.tuples(st.integers(-3, 3), st.floats(-1e6, 1e6, allow_subnormal=False), st.booleans()),
    min_size=1,
    max_size=40,
)
"""Group, value and mask of each row."""


BOTH = pytest.mark.parametrize(
    "array",
    [np.array, *(partial(torch.tensor, device=device) for device in DEVICES)],
    ids=["numpy", *map(str, DEVICES)],
)


def columns(rows: list[tuple[int, float, bool]], array: Any) -> tuple[Groups, Any, Any]:
    ids, values, mask = zip(*rows, strict=True)
    # In the default precision of torch, as lists have it.
    kept = torch.tensor(values).double().tolist()
    return Groups(array(ids)), array(kept, dtype=double(array([0])).dtype), array(mask)


def members(rows: list[tuple[int, float, bool]]) -> list[list[float]]:
    ids = sorted({row[0] for row in rows})
    values = torch.tensor([row[1] for row in rows]).double().tolist()
    return [[v for v, row in zip(values, rows, strict=True) if row[0] == i and row[2]] for i in ids]


@BOTH
@given(ROWS)
def test_reductions_match_the_standard_library(
    array: Any, rows: list[tuple[int, float, bool]]
) -> None:
    groups, values, mask = columns(rows, array)
    kept = members(rows)
    near: dict[str, Any] = {"rel": 1e-9, "abs": 1e-6}
    assert groups.count(mask).tolist() == [len(group) for group in kept]
    assert groups.sum(values, mask).tolist() == pytest.approx(
        [sum(group) for group in kept], **near
    )
    assert groups.max(values, mask, empty=5).tolist() == [max(group, default=5) for group in kept]
    assert groups.min(values, mask, empty=5).tolist() == [min(group, default=5) for group in kept]
    mean, deviation = groups.moments(values, 0, mask)
    for i, group in enumerate(kept):
        assert float(mean[i]) == pytest.approx(statistics.fmean(group) if group else 0, **near)
        assert float(deviation[i]) == pytest.approx(
            statistics.pstdev(group) if group else 0, rel=1e-6, abs=1e-6
        )


@BOTH
@given(ROWS, st.floats(0, 1))
def test_quantiles_match_numpy(
    array: Any, rows: list[tuple[int, float, bool]], fraction: float
) -> None:
    groups, values, mask = columns(rows, array)
    expected = [np.quantile(group, fraction) if group else math.nan for group in members(rows)]
    found = groups.quantile(values, fraction, mask).tolist()
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-6, nan_ok=True)


@BOTH
@given(ROWS, st.integers(0, 5))
def test_the_smallest_rows_match_a_stable_sort(
    array: Any, rows: list[tuple[int, float, bool]], k: int
) -> None:
    groups, values, _ = columns(rows, array)
    ids, listed = [row[0] for row in rows], values.tolist()
    expected = set()
    for i in set(ids):
        group = [row for row in range(len(rows)) if ids[row] == i]
        expected.update(sorted(group, key=lambda row: listed[row])[:k])
    assert np.flatnonzero(to_numpy(groups.smallest(values, k))).tolist() == sorted(expected)
    if k == 1:
        assert groups.first_smallest(values).tolist() == groups.smallest(values, 1).tolist()


@BOTH
@given(st.floats(-1e6, 1e6), st.integers(1, 30), st.sampled_from([0, 1]))
def test_equal_values_have_a_deviation_of_exactly_zero(
    array: Any, value: float, count: int, ddof: int
) -> None:
    values = double(array([value] * count))
    assert Groups.single(values).moments(values, ddof)[1].tolist() == [0.0]
    assert Groups.single(values).z_score(values, ddof, 0.0).tolist() == [0.0] * count
