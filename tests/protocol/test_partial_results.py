"""Results of header tasks, read in any order."""

import itertools
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from oyer.protocol.batch import Manifest
from oyer.protocol.errors import MessageRefused
from oyer.protocol.partial_results import (
    JudgeResult,
    LengthResult,
    PartialResults,
    check_results,
    read_results,
)


def judge_part(chunk: int, score: float | None = 8.0) -> JudgeResult:
    status = "scored" if score is not None else "timeout"
    return JudgeResult(
        chunk=chunk,
        scores={"q": [score]},
        statuses={"q": [status]},
        errors={} if score is not None else {"timeout": "no answer"},
    )


LENGTH = LengthResult(
    added={"length_penalty": np.array([0.1 + 0.2, np.nan])}, multiplied={"gr3": np.array([0.5, 1])}
)


def wire(part: JudgeResult | LengthResult) -> dict[str, Any]:
    written: dict[str, Any] = json.loads(json.dumps(part.to_wire(), allow_nan=False))
    return written


def test_results_survive_encoding() -> None:
    arrived = read_results([wire(judge_part(0)), wire(LENGTH), wire(judge_part(1, None))])
    assert arrived.judges == {0: judge_part(0), 1: judge_part(1, None)}
    length = arrived.length
    assert length is not None
    np.testing.assert_array_equal(length.added["length_penalty"], LENGTH.added["length_penalty"])
    np.testing.assert_array_equal(length.multiplied["gr3"], LENGTH.multiplied["gr3"])
    assert arrived.remarks == []


def test_what_the_judges_said_survives_encoding() -> None:
    part = replace(
        judge_part(0),
        criteria={"q": [[{"name": "right", "value": 1.0}]]},
        turn_scores=[[1.0, None]],
        latencies_ms=[120, 80],
        reasons={7: "Final score: 5"},
    )
    assert read_results([wire(part)]).judges == {0: part}


def test_an_earlier_release_is_sent_no_key_that_it_refuses() -> None:
    """In a rolling upgrade; it ignores what is in `usage`."""
    sent = wire(replace(judge_part(0), latencies_ms=[120], reasons={0: "Final score: 8"}))
    assert sent.keys() == {"part", "chunk", "scores", "statuses", "usage", "errors"}


def test_the_order_of_arrival_makes_no_difference() -> None:
    parts = [wire(judge_part(0)), wire(judge_part(1)), wire(LENGTH)]
    for arrival in itertools.permutations(parts):
        arrived = read_results(arrival)
        assert list(arrived.judges.items()) == [(0, judge_part(0)), (1, judge_part(1))]
        assert arrived.length is not None
        chunks = [part["chunk"] for part in arrival if "chunk" in part]
        late = [] if chunks == [0, 1] else ["chunks arrived as [1, 0]: put in order"]
        assert arrived.remarks == late


def test_of_duplicates_the_first_counts() -> None:
    second = LengthResult(added={}, multiplied={})
    parts = [wire(judge_part(0, 8.0)), wire(judge_part(0, 3.0)), wire(LENGTH), wire(second)]
    arrived = read_results(parts)
    assert arrived.judges == {0: judge_part(0, 8.0)}
    assert arrived.length is not None
    assert list(arrived.length.added) == ["length_penalty"]
    assert arrived.remarks == ["chunk 0, length terms arrived again: the first counts"]


def test_no_results_are_no_error() -> None:
    assert read_results([]) == PartialResults({}, None, [])


def test_the_usage_of_an_earlier_release_is_ignored_and_still_written() -> None:
    assert wire(judge_part(0))["usage"] == {}
    earlier = {**wire(judge_part(0)), "usage": {"calls": 3}}
    assert read_results([earlier]).judges == {0: judge_part(0)}


@pytest.mark.parametrize(
    "part",
    [
        {},
        {"part": "audit"},
        {"part": "judge"},
        {"part": "judge", "chunk": 0},
        {**judge_part(0).to_wire(), "confidence": 1},
        {"part": "length", "added": {}},
        {"part": "length", "added": {"x": "AAA"}, "multiplied": {}},
        {**LENGTH.to_wire(), "kept": False},
        "text",
    ],
    ids=str,
)
def test_a_result_of_another_version_is_refused_with_the_fix(part: Any) -> None:
    with pytest.raises(MessageRefused, match=r"run the same release of Oyer on all workers"):
        read_results([part])


def test_verdicts_of_an_unknown_chunk_are_refused() -> None:
    manifest = Manifest(
        batch_id="b",
        run="r",
        step=None,
        submitted_at=1.0,
        deadline=2.0,
        plan={"judges": [{"name": "q"}]},
        chunks=[(0, 1)],
    )
    check_results(manifest, {0: judge_part(0)})
    with pytest.raises(MessageRefused, match=r"has 1 chunks, and verdicts of others .* \[0, 1\]"):
        check_results(manifest, {0: judge_part(0), 1: judge_part(1)})
