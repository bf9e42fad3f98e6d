"""Every published vector, with the names that the vectors use."""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from oyer.config.length_methods.catalogue import METHODS
from oyer.tasks.lengths import Inputs, PackedTokens, Term, compute, evaluate, vectors
from oyer.tasks.lengths.dispatch import apply
from tests.support.paths import DATA

VECTORS = json.loads((DATA / "length_vectors.json").read_text())
BANDS = json.loads((DATA / "median_band_vectors.json").read_text())


def flat(nested: Any) -> Iterator[float]:
    if isinstance(nested, list):
        for item in nested:
            yield from flat(item)
    else:
        yield nested


def as_tensors(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value)
    if isinstance(value, PackedTokens):
        return PackedTokens(as_tensors(value.ids), as_tensors(value.cu_seqlens))
    if isinstance(value, dict):
        return {name: as_tensors(column) for name, column in value.items()}
    return value


@pytest.fixture(params=["numpy", "torch"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return arrays of the kind that the formulas run on; `evaluate` uses NumPy by default."""

    def on_tensors(method: Any, params: Any, columns: Any, size: int | None) -> Term:
        term = apply(method, params, as_tensors(columns), size)
        given = {name for name, column in columns.items() if column is not None}
        assert given == {"texts"} or isinstance(term.values, torch.Tensor)
        return Term(term.kind, np.asarray(term.values), term.history)

    if request.param == "torch":
        monkeypatch.setattr(vectors, "apply", on_tensors)
    return str(request.param)


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize(
    "vector", VECTORS, ids=[f"{i}-{vector['method']}" for i, vector in enumerate(VECTORS)]
)
def test_a_vector_is_reproduced_within_its_tolerance(vector: dict[str, Any]) -> None:
    found = evaluate(vector["method"], vector["params"], vector["inputs"])
    expected = list(flat(vector["expected"]))
    assert list(flat(found)) == pytest.approx(expected, rel=0, abs=vector["tol"])


def test_every_method_of_the_vectors_is_in_the_catalogue() -> None:
    assert {vector["method"] for vector in VECTORS} <= METHODS.keys()


@pytest.mark.parametrize("array", [np.array, torch.tensor], ids=["numpy", "torch"])
@pytest.mark.parametrize("vector", BANDS)
def test_median_band_gives_the_replaced_systems_reward(vector: dict[str, Any], array: Any) -> None:
    groups = list(dict.fromkeys(vector["group_ids"]))
    inputs = Inputs(
        lengths=array(vector["lengths"]),
        group_ids=array([groups.index(group) for group in vector["group_ids"]]),
    )
    term = compute("median_band", vector["params"], inputs)
    judged = [
        base + vector["reward_coefficient"] * judge if base > 0 else base
        for base, judge in zip(vector["base_scores"], vector["judge_scores"], strict=True)
    ]
    rewards = np.array(judged) + np.asarray(term.values)
    assert term.kind == "add"
    assert rewards.tolist() == pytest.approx(vector["expected_rewards"], rel=0, abs=1e-5)


def test_a_bug_of_a_published_code_has_its_own_parameter() -> None:
    one = {"lengths": [100], "correct": [1], "group_ids": [0]}
    assert evaluate("kimi_length_reward", {"weight": 0.4, "eps": 1e-6}, one) == [0.2]
    laser = evaluate("kimi_length_reward", {"weight": 0.4, "singleton": "min0_max1"}, one)
    assert laser == pytest.approx([-39.8])
