"""Group judges whose endpoint or replies fail: asked again, missing as a group, or replaced."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from oyer.demo.judge_server import JudgeServer
from oyer.demo.request_log import RequestEntry
from oyer.demo.responses import Action
from oyer.manager import RewardManager, Rollout
from oyer.protocol.redis_client import connect
from oyer.tasks.coordination.reply_cache import EXPIRE_SOON_MS
from tests.support.group_judge import (
    LISTWISE,
    PAIRS,
    group,
    honest,
    manager_with,
    shown,
)


def broken(change: Callable[[list[dict[str, Any]]], Any]) -> Callable[[RequestEntry], Action]:
    def answer(request: RequestEntry) -> Action:
        entries = [
            {"id": i, "explanation": "x", "score": 5} for i in range(1, len(shown(request)) + 1)
        ]
        return Action(text=json.dumps({"scores": change(entries)}))

    return answer


@pytest.mark.parametrize(
    "change",
    [
        lambda entries: entries[1:],
        lambda entries: [*entries, entries[0]],
        lambda entries: [{**entries[0], "id": 9}, *entries[1:]],
        lambda entries: [{**entries[0], "score": 11}, *entries[1:]],
    ],
    ids=["missing", "double", "unknown", "out_of_range"],
)
def test_a_wrong_list_is_asked_for_once_more_and_then_the_group_is_missing(
    sqlite_backend: RewardManager,
    judge: JudgeServer,
    change: Callable[[list[dict[str, Any]]], Any],
    request: pytest.FixtureRequest,
) -> None:
    wrong = broken(change)
    bad = request.node.callspec.id

    def answer(arrived: RequestEntry) -> Action:
        return wrong(arrived) if f"{bad}1" in shown(arrived)[0] else honest(arrived)

    judge.set_plan(answer)
    manager = manager_with(sqlite_backend, LISTWISE)
    batch = manager.submit(group(f"{bad}1", 2, 3) + group(f"{bad}2", 4, 5)).result()
    np.testing.assert_array_equal(batch.judge_scores, np.array([np.nan, np.nan, 4, 5], np.float32))
    assert batch.statuses == ["unparseable", "unparseable", "scored", "scored"]
    assert len(judge.requests) == 3
    (first, second) = [one for one in judge.requests if f"{bad}1" in shown(one)[0]]
    assert len(second.messages()) == len(first.messages()) + 2
    assert "cannot be used" in second.messages()[-1][1]
    judge.set_plan(honest)
    mended = manager.submit(group(f"{bad}1", 2, 3)).result()
    assert mended.judge_scores.tolist() == [2, 3]


def test_a_list_that_is_right_on_the_second_try_counts(
    sqlite_backend: RewardManager, judge: JudgeServer
) -> None:
    def answer(request: RequestEntry) -> Action:
        return honest(request) if request.sequence else Action(text='{"scores": [')

    judge.set_plan(answer)
    batch = manager_with(sqlite_backend, LISTWISE).submit(group("second", 2, 3)).result()
    assert batch.judge_scores.tolist() == [2, 3]
    assert batch.usage.calls == 2


def test_the_lists_of_a_group_are_kept_while_another_one_fails(
    sqlite_backend: RewardManager, judge: JudgeServer
) -> None:
    """They are not on record as scores, so that only the reply cache has them."""

    def answer(request: RequestEntry) -> Action:
        bad = any(one.endswith(" 50") for one in shown(request))
        return Action(text="Hm.") if bad else honest(request)

    def lasting() -> set[bytes]:
        keys = client.scan_iter("oyer:reply:*", count=1000)
        return {key for key in keys if int(client.pttl(key)) > EXPIRE_SOON_MS}

    judge.set_plan(answer)
    limited = {**LISTWISE, "scale": [0, 100], "max_list_chars": 1000, "reasks": 0}
    # The judge fails on the response 50, which is not the one that all four lists share.
    rollouts = [
        Rollout(
            prompt="kept list?", response=f"{'x' * 400} {value}", group_id="kept", base_score=1.0
        )
        for value in (10, 20, 30, 40, 50)
    ]
    manager = manager_with(sqlite_backend, limited)
    url = manager.config.broker.url
    assert url is not None
    with connect(url) as client:
        earlier = lasting()
        batch = manager.submit(rollouts).result()
        assert batch.statuses == ["unparseable"] * 5
        assert len(judge.requests) == 4
        assert len(lasting() - earlier) == 3
        judge.reset()
        judge.set_plan(honest)
        again = manager.submit(rollouts).result()
        assert again.judge_scores.tolist() == [10, 20, 30, 40, 50]
        assert len(judge.requests) == 1
        assert lasting() == earlier


def test_a_fallback_judges_the_whole_group(
    sqlite_backend: RewardManager, judge: JudgeServer
) -> None:
    judge.set_plan(honest)
    for kind, calls in ((LISTWISE, 1), ({**PAIRS, "pairs": "all"}, 3)):
        judge.reset()
        failing = {**kind, "endpoint": "dead", "fallback": {"endpoint": "fake", "model": "m"}}
        manager = manager_with(sqlite_backend, failing)
        batch = manager.submit(group("fallback", 1, 2, 3)).result()
        assert batch.judge_scores.tolist() == ([1, 2, 3] if kind is LISTWISE else [-1, 0, 1])
        assert len(judge.requests) == calls
