"""Workers that die between the calls that make one score: what was answered is not paid for again."""

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from oyer.demo.request_log import RequestEntry
from oyer.demo.responses import Action
from oyer.demo.rule_judge import fenced_blocks
from oyer.manager import RewardManager, Rollout
from tests.support.fault_backend import Backend
from tests.support.waiting import wait_until

pytestmark = pytest.mark.faults

DUEL = {"name": "duel", "kind": "group", "mode": "pairs", "pairs": "all"}
CRITERIA = {
    "name": "rubric",
    "criteria": [{"name": f"at least {k}", "text": "Is it?"} for k in (1, 2, 3)],
    "criteria_per_call": 1,
}
TURNS = {"name": "turns", "view": "each_turn"}
N, ANSWERED = 4, 3


def numbers_shown(request: RequestEntry) -> list[int]:
    """Return the numbers of the responses that a request shows."""
    user = next(content for role, content in request.messages() if role == "user")
    return [int(found) for one in fenced_blocks(user) for found in re.findall(r"^worth (\d)", one)]


def winner(request: RequestEntry) -> Action:
    """Let the response with the larger number win."""
    a, b = numbers_shown(request)
    return Action(text=json.dumps({"reason": "larger", "winner": 1 if a > b else 2}))


def verdict(request: RequestEntry) -> Action:
    """Compare the response's number with the one in the criterion's name."""
    (name,) = re.findall(r"(?m)^### (.+)$", request.messages()[-1][1])
    met = numbers_shown(request)[0] >= int(name[-1])
    entry = {"name": name, "reason": "by the number", "verdict": met}
    return Action(text=json.dumps({"verdicts": [entry]}))


def state(request: RequestEntry) -> Action:
    """Score a state by the number of its last turn, and by the rollout's number."""
    number, *later = numbers_shown(request)
    return Action(text=f"Final score: {1 + number + len(later)}")


@pytest.mark.parametrize(
    ("judge", "honest", "calls", "scores"),
    [
        (DUEL, winner, 6, [-1, -1 / 3, 1 / 3, 1]),
        (CRITERIA, verdict, 12, [0, 1 / 3, 2 / 3, 1]),
        (TURNS, state, 12, [3, 4, 5, 6]),
    ],
    ids=["comparisons_of_a_group", "criteria_of_a_rollout", "turns_of_a_rollout"],
)
def test_judge_workers_killed_between_the_calls_of_a_score(
    backend: Backend,
    judge: dict[str, Any],
    honest: Callable[[RequestEntry], Action],
    calls: int,
    scores: list[float],
) -> None:
    def until_the_kill(request: RequestEntry) -> Action:
        return honest(request) if request.sequence < ANSWERED else Action(hold=True)

    def replies() -> set[bytes]:
        return set(backend.redis.client.scan_iter("oyer:reply:*"))

    earlier = replies()
    backend.judge.set_plan(until_the_kill)
    judges = [{**judge, "endpoint": "fake", "model": "m"}]
    manager = RewardManager({**backend.config, "judges": judges, "length": []})
    turns = 3 if judge is TURNS else 1
    rollouts = [
        Rollout(
            prompt="killed?",
            response=[{"role": "assistant", "content": f"worth {i}"}] * turns
            if turns > 1
            else f"worth {i}",
            group_id="killed",
            base_score=1.0,
        )
        for i in range(N)
    ]
    future = manager.submit(rollouts)
    backend.judge.wait_until(
        lambda log: len(log) == calls and sum(one.status == 200 for one in log) == ANSWERED
    )
    # An answered call is in flight until its reply is kept.
    wait_until(lambda: len(replies() - earlier) == ANSWERED, "the replies are kept")
    for worker in backend.living("judge"):
        worker.kill()
    backend.judge.set_plan(honest)
    backend.start("judge")
    batch = future.result(timeout_s=180)
    assert batch.judge_scores.tolist() == pytest.approx(scores)
    if judge is TURNS:
        assert batch.turn_scores == [[i + 1.0, i + 2.0, i + 3.0] for i in range(N)]
    assert len(backend.judge.requests) == calls + (calls - ANSWERED)
