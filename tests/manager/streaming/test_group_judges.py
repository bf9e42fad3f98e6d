"""A group judge's rollouts are submitted one by one, by two processes."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from oyer.demo.judge_server import JudgeServer
from oyer.demo.request_log import RequestEntry
from oyer.demo.responses import Action
from oyer.demo.rule_judge import fenced_blocks
from oyer.manager import RewardManager, Rollout
from oyer.manager.score import Score
from oyer.protocol.errors import InvalidInput, InvalidRollout
from tests.support.scripted_backend import Running
from tests.support.second_trainer import OtherProcess, other_process

WAIT_S = 60.0
OVERDUE_S = 4.0
"""Longer than the rollouts of two processes need to come, however busy the machine is."""
RANKING = {"name": "ranking", "kind": "group", "endpoint": "fake", "model": "m", "weight": 1.0}
QUALITY = {"name": "quality", "endpoint": "fake", "model": "m", "weight": 0.0}


@pytest.fixture(scope="module")
def backend_changes() -> dict[str, Any]:
    return {"judges": [RANKING, QUALITY], "length": []}


@pytest.fixture
def manager(running: Running, judge: JudgeServer) -> RewardManager:
    judge.set_plan(answer)
    return running[0]


@pytest.fixture(scope="module")
def other(running: Running) -> Iterator[OtherProcess]:
    with other_process(running[0]) as process:
        yield process


def shown(request: RequestEntry) -> list[str]:
    """The responses of a group judge's request; empty for a pointwise one."""
    user = next(content for role, content in request.messages() if role == "user")
    count = len(re.findall(r"(?m)^## Response \d+$", user))
    return fenced_blocks(user)[-count:] if count else []


def answer(request: RequestEntry) -> Action:
    """Score responses by their last number."""
    responses = shown(request)
    if not responses:
        return Action(text="Final score: 6")
    entries = [
        {"id": i, "explanation": "its number", "score": int(one.split()[-1])}
        for i, one in enumerate(responses, start=1)
    ]
    return Action(text=json.dumps({"scores": entries}))


def group(tag: str, *values: int) -> list[Rollout]:
    return [
        Rollout(prompt=f"{tag}?", response=f"{tag} {value}", group_id=tag, base_score=0.5)
        for value in values
    ]


def rewards(scores: list[Score | Exception]) -> list[float]:
    assert all(isinstance(score, Score) for score in scores), scores
    return [score.reward for score in scores if isinstance(score, Score)]


def lists(judge: JudgeServer) -> list[list[str]]:
    return [found for one in judge.requests if (found := shown(one))]


def test_a_group_of_two_processes_is_judged_once_when_it_is_complete(
    manager: RewardManager, judge: JudgeServer, other: OtherProcess
) -> None:
    members = group("both", 2, 4, 7, 9)
    other.submit(members[:2], group_size=4)
    first = manager.score(members[2], group_size=4)
    # The pointwise judge judges early; the group judge waits.
    judge.wait_until(lambda log: len(log) == 3)
    assert lists(judge) == []
    last = manager.score(members[3], group_size=4)
    mine = [one.result(WAIT_S) for one in (first, last)]
    scores: list[Score | Exception] = [*other.scores(), *mine]
    assert rewards(scores) == pytest.approx([2.5, 4.5, 7.5, 9.5])
    assert [sorted(one) for one in lists(judge)] == [["both 2", "both 4", "both 7", "both 9"]]
    assert len(judge.requests) == 5


def test_an_overdue_group_is_compared_without_its_missing_rollouts(
    manager: RewardManager, judge: JudgeServer, other: OtherProcess
) -> None:
    members = group("overdue", 3, 8)
    where: dict[str, Any] = {"group_size": 4, "group_timeout_s": OVERDUE_S}
    other.submit(members[1:], **where)
    mine = manager.score(members[0], **where).result(WAIT_S)
    assert rewards([mine, *other.scores()]) == pytest.approx([3.5, 8.5])
    assert [sorted(one) for one in lists(judge)] == [["overdue 3", "overdue 8"]]


def test_an_overdue_group_under_neutral_gets_no_comparison(
    manager: RewardManager, judge: JudgeServer
) -> None:
    where: dict[str, Any] = {
        "group_size": 4, "group_timeout_s": OVERDUE_S, "on_group_timeout": "neutral",
    }  # fmt: skip
    pending = [manager.score(one, **where) for one in group("neutral", 3, 8)]
    assert rewards([one.result(WAIT_S) for one in pending]) == pytest.approx([0.5, 0.5])
    assert lists(judge) == []


def test_a_rollout_needs_a_group_of_two_at_least(manager: RewardManager) -> None:
    (rollout,) = group("alone", 3)
    with pytest.raises(InvalidRollout, match="group judge 'ranking' compares"):
        manager.score(rollout)
    with pytest.raises(InvalidInput, match="group_size: is 1"):
        manager.score(rollout, group_size=1)
