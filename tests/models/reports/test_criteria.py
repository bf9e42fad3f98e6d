"""The criteria report equals the same sums over rows in Python, on both databases."""

import random
from collections import defaultdict
from datetime import timedelta
from statistics import fmean
from typing import Any

import pytest
from sqlalchemy import Connection, Engine

from oyer.models.engine import reading
from oyer.models.reports.criteria import CriteriaReport, criteria_report
from oyer.models.writes import ensure_run_and_batch, record_chunk
from tests.support.record_rows import START, make_batch, make_judgement, make_rollout


def criterion(position: int, name: str, value: float | None, weight: float = 1.0) -> dict[str, Any]:
    return {
        "position": position,
        "name": name,
        "weight": weight,
        "required": False,
        "verdict": None if value is None else str(value == 1).lower(),
        "value": value,
    }


Values = list[dict[str, float | None]]
"""A value by criterion, for each rollout."""


def record(
    conn: Connection, values: Values, groups: list[str | None], *, number: int = 0, **batch: Any
) -> None:
    """Record a batch of the judge `rubric`."""
    row = make_batch(
        **{"run": "r", "submitted_at": START + timedelta(minutes=number), "step": number, **batch}
    )
    record_chunk(
        conn,
        ensure_run_and_batch(conn, row),
        rollouts=[
            make_rollout(i, group_id=group, response=f"{number} {i}")
            for i, group in enumerate(groups)
        ],
        judgements=[
            make_judgement(
                i,
                judge="rubric",
                criteria=[criterion(k, *one) for k, one in enumerate(given.items())],
            )
            for i, given in enumerate(values)
        ],
        attempts=[],
    )


def report(engine: Engine, run: str = "r", **changed: Any) -> CriteriaReport:
    with reading(engine) as conn:
        found = criteria_report(conn, run, **{"batches": 100, "criteria": 100, **changed})
    assert found is not None
    return found


def test_each_criterion_has_its_sums_and_the_groups_in_which_it_decides(engine: Engine) -> None:
    values: Values = [
        {"right": 1.0, "polite": 1.0, "steps": 0.5},
        {"right": 0.0, "polite": 1.0, "steps": None},
        {"right": 1.0, "polite": 1.0, "steps": 0.0},
        {"right": 1.0, "polite": 1.0, "steps": None},
        {"right": 0.0, "polite": 0.0, "steps": 1.0},
    ]
    with engine.begin() as conn:
        record(conn, values, ["a", "a", "b", "b", None])
    found = report(engine)
    assert found[:4] == (1, 0, 0, False)
    polite, right, steps = found.criteria
    assert right == {
        "judge": "rubric",
        "name": "right",
        "min_weight": 1.0,
        "max_weight": 1.0,
        "rollouts": 5,
        "missing": 0,
        "mean_value": 0.6,
        "met": 0.6,
        "groups": 2,
        "deciding_groups": 1,
    }
    assert (polite["name"], polite["groups"], polite["deciding_groups"]) == ("polite", 2, 0)
    assert (steps["missing"], steps["mean_value"]) == (2, 0.5)
    assert steps["met"] == pytest.approx(1 / 3)
    assert steps["groups"] == 0  # neither group has two verdicts


def test_random_records_give_the_sums_of_their_rows(engine: Engine) -> None:
    draw = random.Random(7)
    by_group: dict[tuple[Any, ...], list[float]] = defaultdict(list)
    by_name: dict[str, list[float | None]] = defaultdict(list)
    with engine.begin() as conn:
        for number in range(6):
            groups = [draw.choice(["a", "b", "c", None]) for _ in range(12)]
            values: Values = [
                {name: draw.choice([0.0, 1.0, 1 / 3, None]) for name in draw.sample("uvwxyz", 3)}
                for _ in groups
            ]
            record(conn, values, groups, number=number)
            for group, given in zip(groups, values, strict=True):
                for name, value in given.items():
                    by_name[name].append(value)
                    if group is not None and value is not None:
                        by_group[name, number, group].append(value)
    found = report(engine)
    assert [one["name"] for one in found.criteria] == sorted(by_name)
    for one in found.criteria:
        known = [value for value in by_name[one["name"]] if value is not None]
        compared = [g for key, g in by_group.items() if key[0] == one["name"] and len(g) > 1]
        assert one["rollouts"] == len(by_name[one["name"]])
        assert one["missing"] == one["rollouts"] - len(known)
        assert one["mean_value"] == pytest.approx(fmean(known))
        assert one["met"] == pytest.approx(known.count(1.0) / len(known))
        assert one["groups"] == len(compared)
        assert one["deciding_groups"] == sum(len(set(group)) > 1 for group in compared)


def test_samples_and_the_fallback_count_as_one_rollout(engine: Engine) -> None:
    batch = make_batch(run="r")
    rows = [
        make_judgement(0, judge="rubric", sample=0, criteria=[criterion(0, "right", 1.0)]),
        make_judgement(0, judge="rubric", sample=1, criteria=[criterion(0, "right", 0.0)]),
        make_judgement(
            1, judge="rubric", status="timeout", score=None, criteria=[criterion(0, "right", None)]
        ),
        make_judgement(1, judge="rubric/fallback", criteria=[criterion(0, "right", 1.0)]),
    ]
    with engine.begin() as conn:
        key = ensure_run_and_batch(conn, batch)
        rollouts = [make_rollout(i, group_id="a") for i in range(2)]
        record_chunk(conn, key, rollouts=rollouts, judgements=rows, attempts=[])
    (one,) = report(engine).criteria
    assert (one["judge"], one["rollouts"], one["missing"]) == ("rubric", 2, 0)
    assert (one["mean_value"], one["met"]) == (0.75, 0.5)
    assert (one["groups"], one["deciding_groups"]) == (1, 1)


def test_a_group_over_batches_of_one_step_is_one_group(engine: Engine) -> None:
    with engine.begin() as conn:
        for number in range(2):
            record(conn, [{"right": float(number)}], ["a"], number=number, step=3)
        for number in range(2, 4):
            record(conn, [{"right": float(number - 2)}], ["a"], number=number, step=None)
    found = report(engine)
    assert found[:4] == (4, 3, 3, False)
    (one,) = found.criteria
    assert (one["rollouts"], one["groups"], one["deciding_groups"]) == (4, 1, 1)


def test_only_the_asked_batches_count(engine: Engine) -> None:
    with engine.begin() as conn:
        for number in range(3):
            record(conn, [{"right": float(number > 0)}], ["a"], number=number)
        record(conn, [{"right": 0.0, "judged early": 0.0}], ["a"], number=4, preliminary=True)
        record(conn, [{"held out": 1.0}], ["a"], number=5, split="eval")
        record(conn, [{"other": 1.0}], ["a"], number=6, run="another")
    assert [one["name"] for one in report(engine, split="eval").criteria] == ["held out"]
    assert [one["rollouts"] for one in report(engine).criteria] == [3]
    latest = report(engine, batches=2)
    assert latest[:4] == (2, 1, 2, True)
    assert [one["mean_value"] for one in latest.criteria] == [1.0]
    assert not report(engine, batches=3).older_batches
    first = report(engine, "another", criteria=1)
    assert (len(first.criteria), first.more_criteria) == (1, False)


def test_the_number_of_criteria_is_bounded(engine: Engine) -> None:
    with engine.begin() as conn:
        record(conn, [{f"own {i:02}": 1.0 for i in range(5)}], ["a"])
    found = report(engine, criteria=3)
    assert [one["name"] for one in found.criteria] == ["own 00", "own 01", "own 02"]
    assert found.more_criteria


def test_a_run_without_criteria_is_empty_and_an_unknown_one_is_none(engine: Engine) -> None:
    with engine.begin() as conn:
        ensure_run_and_batch(conn, make_batch(run="r"))
    assert report(engine).criteria == []
    with reading(engine) as conn:
        assert criteria_report(conn, "unknown", batches=1, criteria=1) is None
