"""The encoding of a batch result is exact; damaged results are refused."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray

from oyer.protocol.batch_result import BatchResult, packed64, unpacked64
from oyer.protocol.errors import MessageRefused


def outcome_of(rewards: NDArray[np.float32]) -> BatchResult:
    return BatchResult(
        batch_id="b",
        rewards=rewards,
        unshaped_rewards=rewards + 1,
        judge_scores=np.full_like(rewards, np.nan),
        mask=np.isfinite(rewards),
        statuses=["scored"] * len(rewards),
        terms={"base_score": rewards, "长度": rewards},
        usage={"calls": 3, "prompt_tokens": 10, "completion_tokens": 4, "cost_usd": 0.25},
        first_errors={"timeout": "no answer"},
    )


def journey(outcome: BatchResult) -> BatchResult:
    return BatchResult.from_wire(json.loads(json.dumps(outcome.to_wire(), allow_nan=False)))


@given(
    npst.arrays(
        np.float32,
        st.integers(0, 50),
        elements=st.floats(-(2.0**99), 2.0**99, width=32) | st.just(np.nan),
    )
)
def test_a_result_survives_encoding_exactly(rewards: NDArray[np.float32]) -> None:
    outcome = outcome_of(rewards)
    back = journey(outcome)
    for name in ("rewards", "unshaped_rewards", "judge_scores", "mask"):
        sent, arrived = getattr(outcome, name), getattr(back, name)
        np.testing.assert_array_equal(arrived, sent)
        assert arrived.dtype == sent.dtype
    for name, term in outcome.terms.items():
        np.testing.assert_array_equal(back.terms[name], term)
    assert (back.batch_id, back.statuses) == (outcome.batch_id, outcome.statuses)
    assert (back.usage, back.first_errors) == (outcome.usage, outcome.first_errors)


def test_what_the_judges_said_survives_encoding() -> None:
    said: dict[str, Any] = {
        "criteria": [{"q": [{"name": "right", "value": 1.0, "weight": 2.0}]}, {}],
        "turn_scores": [[1.0, None, 3.5], []],
        "judge_latency_ms": {"p50": 12.5, "p95": 80.0},
        "reasons": {1: "Final score: 5 ✓"},
        "groups": [0, -1],
    }
    back = journey(replace(outcome_of(np.ones(2, dtype=np.float32)), **said))
    assert {name: getattr(back, name) for name in said} == said


def test_a_result_of_an_earlier_release_is_read() -> None:
    wire = outcome_of(np.ones(1, dtype=np.float32)).to_wire()
    for name in ("scores", "groups", "criteria", "turn_scores", "judge_latency_ms", "reasons"):
        del wire[name]
    back = BatchResult.from_wire(wire)
    assert (back.turn_scores, back.judge_latency_ms, back.reasons) == ([], {}, {})


def test_decoded_arrays_are_writable() -> None:
    back = journey(outcome_of(np.ones(3, dtype=np.float32)))
    back.rewards[0] = 5
    back.terms["base_score"][0] = 5


@given(npst.arrays(np.float64, st.integers(0, 50)))
def test_float64_survives_encoding_exactly(values: NDArray[np.float64]) -> None:
    np.testing.assert_array_equal(unpacked64(packed64(values)), values)


@pytest.mark.parametrize("version", [None, 0, 2, "1"])
def test_another_version_is_refused_with_the_fix(version: Any) -> None:
    wire = {**outcome_of(np.ones(1, dtype=np.float32)).to_wire(), "v": version}
    with pytest.raises(MessageRefused, match=r"run the same release of Oyer on the trainer and"):
        BatchResult.from_wire(wire)


@pytest.mark.parametrize("key", ["batch_id", "rewards", "mask", "statuses", "terms", "usage"])
def test_a_result_without_a_field_is_refused(key: str) -> None:
    wire = outcome_of(np.ones(1, dtype=np.float32)).to_wire()
    del wire[key]
    with pytest.raises(MessageRefused, match=rf"result cannot be read: KeyError\('{key}'\)"):
        BatchResult.from_wire(wire)


@pytest.mark.parametrize(
    "changes",
    [
        {"rewards": "AAA"},
        {"rewards": 3},
        {"terms": ["x"]},
        {"statuses": None},
        {"turn_scores": [[1.0], [2.0]]},
        {"turn_scores": [["1"]]},
        {"judge_latency_ms": {"p50": float("nan")}},
        {"reasons": {"first": "good"}},
        {"reasons": ["good"]},
    ],
    ids=str,
)
def test_a_damaged_result_is_refused(changes: dict[str, Any]) -> None:
    wire = {**outcome_of(np.ones(1, dtype=np.float32)).to_wire(), **changes}
    with pytest.raises(MessageRefused, match=r"result cannot be read"):
        BatchResult.from_wire(wire)
