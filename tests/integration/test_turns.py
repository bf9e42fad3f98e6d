"""A judge with `view: each_turn`, over real workers and both databases."""

from collections.abc import Callable
from typing import Any

import numpy as np

from oyer.demo.judge_server import JudgeServer
from oyer.demo.request_log import RequestEntry
from oyer.demo.responses import Action
from oyer.manager import RewardManager, Rollout
from oyer.manager.credit import turn_credit
from oyer.models.engine import open_engine
from oyer.tasks.recall import _recalled
from tests.integration.test_main_job import read

Sibling = Callable[..., RewardManager]

SCORES = {1: 3, 2: 4, 3: 9}


def judge_of(**keys: Any) -> dict[str, Any]:
    return {"name": "quality", "endpoint": "fake", "model": "m", "view": "each_turn", **keys}


def trajectory(tag: str, turns: int) -> list[dict[str, Any]]:
    """Return a response whose turns say their numbers."""
    messages = []
    for number in range(1, turns + 1):
        messages.append({"role": "assistant", "content": f"{tag}, turn {number}"})
        messages.append({"role": "user", "content": "And then?"})
    return messages


def rollouts_of(tag: str) -> list[Rollout]:
    """Return rollouts of three turns, of one turn, and of a text."""
    responses: list[Any] = [trajectory(tag, 3), trajectory(tag, 1), f"{tag}, turn 1 is all"]
    return [
        Rollout(prompt=f"{tag}?", response=response, group_id=tag, response_tokens=9, base_score=1)
        for response in responses
    ]


def turns_shown(entry: RequestEntry) -> int:
    text = entry.json()["messages"][-1]["content"]
    return max(number for number in SCORES if f"turn {number}" in text)


def by_turns(entry: RequestEntry) -> Action:
    return Action(text=f"Final score: {SCORES[turns_shown(entry)]}")


def recalled(manager: RewardManager, batch_id: str) -> list[list[float | None]]:
    """Return the turn scores of a batch as they are read from the record alone."""
    engine = open_engine(manager.config.store.url)
    with engine.connect() as conn:
        scores = _recalled(conn, batch_id).turn_scores
    engine.dispose()
    return scores


def test_each_turn_is_scored_paid_once_and_on_record(
    backend: RewardManager, sibling: Sibling, judge: JudgeServer
) -> None:
    judge.set_plan(by_turns)
    manager = sibling(judges=[judge_of()])
    batch = manager.submit(rollouts_of("turns"), run="turns").result(90)
    assert batch.turn_scores == [[3.0, 4.0, 9.0], [3.0], [3.0]]
    assert batch.judge_scores.tolist() == [9.0, 3.0, 3.0]
    assert sorted(map(turns_shown, judge.requests)) == [1, 1, 1, 2, 3]
    credit = turn_credit(batch.turn_scores[0], np.array([0, -1, 1, 1, -1, 2]))
    assert credit.tolist() == [0.0, 0.0, 0.5, 0.5, 0.0, 5.0]
    rows = read(
        manager,
        "SELECT judge, turn, score FROM judge_history"
        " WHERE batch_id = :id AND rollout_index = 0 ORDER BY turn",
        id=batch.id,
    )
    assert [tuple(row.values()) for row in rows] == [
        ("quality/turns", 0, 3.0),
        ("quality/turns", 1, 4.0),
        ("quality", 2, 9.0),
    ]
    assert recalled(manager, batch.id) == batch.turn_scores
    again = manager.submit(rollouts_of("turns"), run="turns").result(90)
    assert (again.usage.calls, again.turn_scores) == (0, batch.turn_scores)


def test_a_turn_without_a_score_is_missing_and_never_0(
    backend: RewardManager, sibling: Sibling, judge: JudgeServer
) -> None:
    def plan(entry: RequestEntry) -> Action:
        return Action(text="no idea") if turns_shown(entry) == 2 else by_turns(entry)

    judge.set_plan(plan)
    manager = sibling(judges=[judge_of(reasks=0)])
    batch = manager.submit(rollouts_of("gap"), run="turns").result(90)
    assert batch.turn_scores == [[3.0, None, 9.0], [3.0], [3.0]]
    assert batch.statuses == ["unparseable", "scored", "scored"]
    assert np.isnan(batch.judge_scores[0])
    assert recalled(manager, batch.id) == batch.turn_scores
    assert batch.first_errors["unparseable"].startswith("turn 2: ")
    judge.set_plan(by_turns)
    judge.reset()
    later = manager.submit(rollouts_of("gap"), run="turns").result(90)
    assert later.turn_scores[0] == [3.0, 4.0, 9.0]
    assert [turns_shown(entry) for entry in judge.requests] == [2]


def test_a_fallback_scores_all_turns_of_a_group(
    backend: RewardManager, sibling: Sibling, judge: JudgeServer
) -> None:
    def plan(entry: RequestEntry) -> Action:
        if entry.json()["model"] == "spare":
            return Action(text=f"Final score: {turns_shown(entry)}")
        return Action(text="no idea") if turns_shown(entry) == 1 else by_turns(entry)

    judge.set_plan(plan)
    fallback = {"endpoint": "fake", "model": "spare"}
    manager = sibling(judges=[judge_of(reasks=0, fallback=fallback)])
    batch = manager.submit(rollouts_of("spare"), run="turns").result(90)
    assert batch.turn_scores == [[1.0, 2.0, 3.0], [1.0], [1.0]]
    assert batch.statuses == ["scored"] * 3
    assert recalled(manager, batch.id) == batch.turn_scores


def test_criteria_of_each_turn_give_its_score(
    backend: RewardManager, sibling: Sibling, judge: JudgeServer
) -> None:
    def plan(entry: RequestEntry) -> Action:
        met = "true" if turns_shown(entry) == 3 else "false"
        entry_text = f'{{"name": "done", "reason": "r", "verdict": {met}}}'
        return Action(text=f'{{"verdicts": [{entry_text}]}}')

    judge.set_plan(plan)
    manager = sibling(judges=[judge_of(criteria=[{"name": "done", "text": "Is it done?"}])])
    batch = manager.submit(rollouts_of("criteria"), run="turns").result(90)
    assert batch.turn_scores == [[0.0, 0.0, 1.0], [0.0], [0.0]]
    assert batch.components["quality/done"].tolist() == [1.0, 0.0, 0.0]


def test_the_metadata_of_a_rollout_reach_its_judge(
    backend: RewardManager, sibling: Sibling, judge: JudgeServer
) -> None:
    judge.set_plan({})
    rubric = "Judge the {metadata.aspect} of {response} {verdict}"
    manager = sibling(judges=[judge_of(view="full", rubric=rubric)], length=[])
    rollout = Rollout(prompt="p", response="r", metadata={"aspect": "{response}"})
    manager.submit([rollout], run="turns").result(90)
    (entry,) = judge.requests
    assert "the ```\n{response}\n``` of" in entry.json()["messages"][-1]["content"]
