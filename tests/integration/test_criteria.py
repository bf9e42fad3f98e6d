"""Judges that give verdicts on criteria, over real workers and both databases."""

import json
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from oyer.demo.judge_server import JudgeServer
from oyer.demo.request_log import RequestEntry
from oyer.demo.responses import Action
from oyer.manager import RewardManager
from tests.integration.test_main_job import read
from tests.support.rollouts import rollouts_of

CRITERIA = [
    {"name": "correct", "text": "Is the answer right?", "weight": 3, "required": True},
    {"name": "steps", "text": "Are the steps shown?", "choices": ["none", "some", "all"]},
    {"name": "filler", "text": "Has filler.", "points": -2},
]
VERDICTS: dict[str, Any] = {"correct": True, "steps": "some", "filler": False}
SCORE = (3 * 1 + 1 * 0.5 + 2 * 1) / 6

Sibling = Callable[..., RewardManager]


def judge_of(endpoint: str = "fake", **keys: Any) -> dict[str, Any]:
    return {"name": "rubric", "endpoint": endpoint, "model": "m", "weight": 1.0, **keys}


def asked_of(entry: RequestEntry) -> list[str]:
    """Return the criteria that a request's last message asks about."""
    text = entry.json()["messages"][-1]["content"]
    return [line[4:] for line in text.splitlines() if line.startswith("### ")]


def reply(verdicts: dict[str, Any], names: list[str]) -> Action:
    found = [{"name": n, "reason": f"About {n}.", "verdict": verdicts[n]} for n in names]
    return Action(text=f"Here is my verdict:\n```json\n{json.dumps({'verdicts': found})}\n```")


def answering(judge: JudgeServer, verdicts: dict[str, Any] = VERDICTS) -> None:
    judge.set_plan(lambda entry: reply(verdicts, asked_of(entry)))


@pytest.mark.parametrize("per_call", ["all", 1])
def test_verdicts_are_scores_components_and_rows(
    backend: RewardManager, sibling: Sibling, judge: JudgeServer, per_call: Any
) -> None:
    answering(judge)
    manager = sibling(judges=[judge_of(criteria=CRITERIA, criteria_per_call=per_call)])
    batch = manager.submit(rollouts_of(f"criteria-{per_call}", 4), run="criteria").result(90)
    assert batch.judge_scores.tolist() == pytest.approx([SCORE] * 4), batch.first_errors
    assert batch.components["rubric/steps"].tolist() == [0.5] * 4
    assert batch.components["rubric/filler"].tolist() == [0.0] * 4
    first = {one["name"]: one for one in batch.criteria[0]["rubric"]}
    assert first["filler"] == {
        "name": "filler",
        "value": 0.0,
        "verdict": False,
        "reason": "About filler.",
        "weight": -2.0,
    }
    calls = 4 if per_call == "all" else 12
    assert batch.usage.calls == calls
    rows = read(
        manager,
        "SELECT name, verdict, value, reason, weight, span, run FROM criterion_history"
        " WHERE batch_id = :id AND rollout_index = 1 ORDER BY sample, position",
        id=batch.id,
    )
    assert [(row["name"], row["verdict"], row["value"]) for row in rows] == [
        ("correct", "true", 1.0),
        ("steps", "some", 0.5),
        ("filler", "false", 0.0),
    ]
    assert rows[0]["span"] == '{"name": "correct", "reason": "About correct.", "verdict": true}'
    again = manager.submit(rollouts_of(f"criteria-{per_call}", 4), run="criteria").result(90)
    assert again.usage.calls == 0
    assert again.criteria == batch.criteria


def test_only_missing_verdicts_are_asked_again(
    backend: RewardManager, sibling: Sibling, judge: JudgeServer
) -> None:
    def plan(entry: RequestEntry) -> Action:
        names = asked_of(entry)
        return reply({**VERDICTS, "steps": "most"} if len(names) == 3 else VERDICTS, names)

    judge.set_plan(plan)
    manager = sibling(judges=[judge_of(criteria=CRITERIA)])
    batch = manager.submit(rollouts_of("reask", 2), run="criteria").result(90)
    assert batch.judge_scores.tolist() == pytest.approx([SCORE] * 2)
    assert sorted(map(len, map(asked_of, judge.requests))) == [1, 1, 3, 3]
    again = manager.submit(rollouts_of("reask", 2), run="criteria").result(90)
    assert (again.usage.calls, again.criteria) == (0, batch.criteria)


def test_a_missing_verdict_is_never_0(
    backend: RewardManager, sibling: Sibling, judge: JudgeServer
) -> None:
    judge.set_plan(
        lambda entry: reply(VERDICTS, [name for name in asked_of(entry) if name != "steps"])
    )
    strict = sibling(judges=[judge_of(criteria=CRITERIA)])
    batch = strict.submit(rollouts_of("missing", 2), run="criteria").result(90)
    assert batch.statuses == ["unparseable"] * 2
    assert np.isnan(batch.components["rubric/steps"]).all()
    assert batch.components["rubric/correct"].tolist() == [1.0] * 2
    assert "'steps'" in batch.first_errors["unparseable"]
    lenient = sibling(judges=[judge_of(criteria=CRITERIA, min_valid_criteria=2)])
    batch = lenient.submit(rollouts_of("missing", 2), run="criteria").result(90)
    assert batch.judge_scores.tolist() == pytest.approx([1.0] * 2)


def test_criteria_of_the_rollouts_are_judged(
    backend: RewardManager, sibling: Sibling, judge: JudgeServer
) -> None:
    judge.set_plan(lambda entry: reply(dict.fromkeys(asked_of(entry), True), asked_of(entry)))
    manager = sibling(
        judges=[
            judge_of(criteria=CRITERIA, criteria_from="metadata.rubric", combine_criteria="points")
        ]
    )
    health = [
        {"criterion": "Names a doctor.", "points": 5, "tags": []},
        {"criterion": "Is overly verbose.", "points": -3, "tags": []},
    ]
    own = rollouts_of("own", 1, metadata={"rubric": health})
    batch = manager.submit(own, run="criteria").result(90)
    assert batch.judge_scores.tolist() == pytest.approx([(5 - 3) / 5])
    assert [one["weight"] for one in batch.criteria[0]["rubric"]] == [5.0, -3.0]


def test_a_fallback_gives_all_verdicts_of_a_group(
    backend: RewardManager, sibling: Sibling, judge: JudgeServer
) -> None:
    def plan(entry: RequestEntry) -> Action:
        names = asked_of(entry)
        failing = (
            entry.model == "m" and names == ["steps"] and "number 1 " in entry.messages()[-1][1]
        )
        return Action(text="Hm.") if failing else reply(VERDICTS, names)

    judge.set_plan(plan)
    spare = {"endpoint": "fake", "model": "spare"}
    manager = sibling(
        judges=[judge_of(criteria=CRITERIA, criteria_per_call=1, reasks=0, fallback=spare)]
    )
    batch = manager.submit(rollouts_of("fallback", 8), run="criteria").result(90)
    assert batch.judge_scores.tolist() == pytest.approx([SCORE] * 8), batch.first_errors
    assert batch.components["rubric/steps"].tolist() == [0.5] * 8
    # The group of rollout 1 is judged again on all criteria, the other group on none.
    assert [entry.model for entry in judge.requests].count("spare") == 4 * 3
    rows = read(
        manager,
        "SELECT judge, rollout_index FROM judgements WHERE batch_id = :id AND judge <> 'rubric'",
        id=batch.id,
    )
    assert {row["judge"] for row in rows} == {"rubric/fallback"}
    assert sorted({row["rollout_index"] for row in rows}) == [0, 1, 2, 3]


def test_samples_of_each_call_are_averaged(
    backend: RewardManager, sibling: Sibling, judge: JudgeServer
) -> None:
    asked: list[str] = []
    lock = threading.Lock()

    def plan(entry: RequestEntry) -> Action:
        with lock:
            text = entry.messages()[-1][1]
            asked.append(text)
            steps = "none" if asked.count(text) == 1 else "all"
        return reply({**VERDICTS, "steps": steps}, asked_of(entry))

    judge.set_plan(plan)
    manager = sibling(
        judges=[judge_of(criteria=CRITERIA, criteria_per_call=2, samples=2, temperature=1.0)]
    )
    batch = manager.submit(rollouts_of("sampled", 2), run="criteria").result(90)
    assert batch.judge_scores.tolist() == pytest.approx([(5 / 6 + 1) / 2] * 2), batch.first_errors
    assert batch.components["rubric/steps"].tolist() == [0.5] * 2
    assert batch.usage.calls == 2 * 2 * 2
    rows = read(
        manager,
        "SELECT sample, name FROM criterion_history WHERE batch_id = :id AND rollout_index = 0",
        id=batch.id,
    )
    named = [(row["sample"], row["name"]) for row in rows]
    first, second = (
        [(k, n) for k in (0, 1) for n in ("correct", "steps")],
        [(2, "filler"), (3, "filler")],
    )
    assert sorted(named) == [*first, *second]
