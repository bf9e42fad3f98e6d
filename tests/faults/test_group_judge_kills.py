"""A worker that dies in the middle of a group: its comparisons are not paid for again."""

import json
import re
from typing import Any

import pytest

from oyer.demo.request_log import RequestEntry
from oyer.demo.responses import Action
from oyer.demo.rule_judge import fenced_blocks
from oyer.manager import RewardManager, Rollout
from tests.support.fault_backend import Backend
from tests.support.waiting import wait_until

pytestmark = pytest.mark.faults

DUEL = {"name": "duel", "kind": "group", "mode": "pairs", "pairs": "all", "endpoint": "fake"}
N, COMPARISONS, ANSWERED = 4, 6, 3


def honest(request: RequestEntry) -> Action:
    """Let the response with the larger number win."""
    user = next(content for role, content in request.messages() if role == "user")
    a, b = (int(re.findall(r"\d+", one)[-1]) for one in fenced_blocks(user)[-2:])
    return Action(text=json.dumps({"reason": "larger", "winner": 1 if a > b else 2}))


def test_judge_workers_killed_between_the_comparisons_of_a_group(backend: Backend) -> None:
    def until_the_kill(request: RequestEntry) -> Action:
        return honest(request) if request.sequence < ANSWERED else Action(hold=True)

    def replies() -> set[bytes]:
        return set(backend.redis.client.scan_iter("oyer:reply:*"))

    earlier = replies()
    backend.judge.set_plan(until_the_kill)
    judges: list[dict[str, Any]] = [{**DUEL, "model": "m"}]
    manager = RewardManager({**backend.config, "judges": judges, "length": []})
    rollouts = [
        Rollout(prompt="killed?", response=f"worth {i}", group_id="killed", base_score=1.0)
        for i in range(N)
    ]
    future = manager.submit(rollouts)
    backend.judge.wait_until(
        lambda log: len(log) == COMPARISONS and sum(one.status == 200 for one in log) == ANSWERED
    )
    # An answered call is in flight until its reply is kept.
    wait_until(lambda: len(replies() - earlier) == ANSWERED, "the replies are kept")
    for worker in backend.living("judge"):
        worker.kill()
    backend.judge.set_plan(honest)
    backend.start("judge")
    batch = future.result(timeout_s=90)
    assert batch.judge_scores.tolist() == pytest.approx([-1, -1 / 3, 1 / 3, 1])
    assert len(backend.judge.requests) == COMPARISONS + (COMPARISONS - ANSWERED)
