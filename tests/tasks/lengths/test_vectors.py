"""Every published vector, through the interface that speaks the vectors' words."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from oyer.tasks.lengths import Inputs, compute, evaluate
from oyer.tasks.lengths.catalogue import METHODS

DATA = Path(__file__).parents[2] / "data"
VECTORS = json.loads((DATA / "length_vectors.json").read_text())
BANDS = json.loads((DATA / "median_band_vectors.json").read_text())


def flat(nested: Any) -> Iterator[float]:
    if isinstance(nested, list):
        for item in nested:
            yield from flat(item)
    else:
        yield nested


@pytest.mark.parametrize(
    "vector", VECTORS, ids=[f"{i}-{vector['method']}" for i, vector in enumerate(VECTORS)]
)
def test_a_vector_is_met_within_its_tolerance(vector: dict[str, Any]) -> None:
    found = evaluate(vector["method"], vector["params"], vector["inputs"])
    expected = list(flat(vector["expected"]))
    assert list(flat(found)) == pytest.approx(expected, rel=0, abs=vector["tol"])


def test_every_method_of_the_vectors_is_in_the_catalogue() -> None:
    assert {vector["method"] for vector in VECTORS} <= METHODS.keys()


@pytest.mark.parametrize("vector", BANDS)
def test_median_band_gives_the_replaced_systems_reward(vector: dict[str, Any]) -> None:
    groups = list(dict.fromkeys(vector["group_ids"]))
    inputs = Inputs(
        lengths=torch.tensor(vector["lengths"]),
        group_ids=torch.tensor([groups.index(group) for group in vector["group_ids"]]),
    )
    term = compute("median_band", vector["params"], inputs)
    judged = [
        base + vector["reward_coefficient"] * judge if base > 0 else base
        for base, judge in zip(vector["base_scores"], vector["judge_scores"], strict=True)
    ]
    rewards = torch.tensor(judged, dtype=torch.float64) + term.values
    assert term.kind == "add"
    assert rewards.tolist() == pytest.approx(vector["expected_rewards"], rel=0, abs=1e-5)


def test_a_bug_of_a_reference_needs_its_own_parameter() -> None:
    one = {"lengths": [100], "correct": [1], "group_ids": [0]}
    assert evaluate("kimi_length_reward", {"weight": 0.4, "eps": 1e-6}, one) == [0.2]
    laser = evaluate("kimi_length_reward", {"weight": 0.4, "singleton": "min0_max1"}, one)
    assert laser == pytest.approx([-39.8])
