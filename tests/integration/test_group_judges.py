"""Group judges with real workers: lists and pairs, on SQLite and PostgreSQL."""

import json
from collections import Counter
from typing import Any

import numpy as np
import pytest
from sqlalchemy import text

from oyer.demo.judge_server import JudgeServer
from oyer.demo.request_log import RequestEntry
from oyer.demo.responses import Action
from oyer.manager import RewardManager, Rollout
from oyer.manager.stand_ins import with_group_mean
from oyer.models.engine import open_engine, reading
from tests.support.group_judge import (
    LISTWISE,
    PAIRS,
    group,
    honest,
    manager_with,
    points,
    shown,
)


def rows(backend: RewardManager, batch_id: str, table: str = "judgements") -> list[dict[str, Any]]:
    engine = open_engine(backend.config.store.url)
    try:
        with reading(engine) as conn:
            query = text(
                f"select * from {table} where batch_id = :id order by judge, rollout_index, sample"
            )
            return [dict(row) for row in conn.execute(query, {"id": batch_id}).mappings()]
    finally:
        engine.dispose()


@pytest.fixture(params=["sqlite_backend", "postgres_backend"])
def backend(request: pytest.FixtureRequest) -> RewardManager:
    manager = request.getfixturevalue(request.param)
    assert isinstance(manager, RewardManager)
    return manager


def test_a_list_scores_each_group_by_one_call_and_is_paid_for_once(
    backend: RewardManager, judge: JudgeServer
) -> None:
    judge.set_plan(honest)
    manager = manager_with(backend, LISTWISE)
    name = f"list{id(backend)}"
    rollouts = group(f"{name}a", 3, 9, 9, 1) + group(f"{name}b", 5, 6, 7, 8)
    batch = manager.submit(rollouts).result()
    assert batch.judge_scores.tolist() == [3, 9, 9, 1, 5, 6, 7, 8]
    assert (batch.usage.calls, len(judge.requests)) == (2, 2)
    assert sorted(len(shown(one)) for one in judge.requests) == [3, 4]
    found = rows(backend, batch.id)
    assert [row["source"] for row in found] == ["called", *["joined"] * 3] * 2
    assert [row["attempts"] for row in found] == [1, 0, 0, 0] * 2
    assert len({row["request_hash"] for row in found}) == 2
    assert "worth 9" in found[1]["parsed_span"]
    assert len(rows(backend, batch.id, "attempts")) == 2
    # In another order, in another batch: nothing is called.
    again = manager.submit(rollouts[::-1]).result()
    assert again.judge_scores.tolist() == [8, 7, 6, 5, 1, 9, 9, 3]
    assert (again.usage.calls, len(judge.requests)) == (0, 2)


def test_pairs_give_net_win_rates(backend: RewardManager, judge: JudgeServer) -> None:
    judge.set_plan(honest)
    name = f"pairs{id(backend)}"
    rollouts = group(name, 1, 2, 2, 4)
    for pairs, calls in (("all", 3), ("circular", 3)):
        judge.reset()
        manager = manager_with(backend, {**PAIRS, "pairs": pairs, "both_orders": True})
        batch = manager.submit(rollouts).result()
        assert batch.judge_scores.tolist() == [-1, 0, 0, 1]
        assert batch.usage.calls == len(judge.requests) == (2 * calls if pairs == "all" else 0)
        found = rows(backend, batch.id)
        assert Counter(row["judge"] for row in found) == {"ranking": 4, "ranking/pairs": 6}
        account = next(row for row in found if row["judge"] == "ranking")
        assert account["reply"].count("lost against rollout") == 4


def test_the_first_position_wins_nothing_if_orders_disagree(
    sqlite_backend: RewardManager, judge: JudgeServer
) -> None:
    judge.set_plan(Action(text='{"reason": "the first", "winner": 1}'))
    manager = manager_with(sqlite_backend, {**PAIRS, "pairs": "all", "both_orders": True})
    batch = manager.submit(group("position", 1, 2, 3)).result()
    assert batch.judge_scores.tolist() == [0, 0, 0]
    assert len(judge.requests) == 6


def test_a_long_group_is_split_into_lists_that_share_a_response(
    sqlite_backend: RewardManager, judge: JudgeServer
) -> None:
    """The lists' scores differ by their offsets only, which the shared response takes away."""

    def shifted(request: RequestEntry) -> Action:
        responses = shown(request)
        best = max(map(points, responses))
        entries = [
            {"id": i, "explanation": "x", "score": points(one) - best}
            for i, one in enumerate(responses, start=1)
        ]
        return Action(text=json.dumps({"scores": entries}))

    judge.set_plan(shifted)
    limited = {**LISTWISE, "scale": [-100, 100], "max_list_chars": 1000}
    rollouts = [
        Rollout(prompt="long?", response=f"{'x' * 400} {value}", group_id="long", base_score=1.0)
        for value in (10, 20, 30, 40, 50)
    ]
    batch = manager_with(sqlite_backend, limited).submit(rollouts).result()
    assert len(judge.requests) == 4
    assert np.diff(batch.judge_scores).tolist() == [10, 10, 10, 10]


def test_empty_and_gated_rollouts_are_not_shown(
    sqlite_backend: RewardManager, judge: JudgeServer
) -> None:
    judge.set_plan(honest)
    rollouts = group("partial", 2, 3, 4, 5)
    rollouts[1] = Rollout(prompt="partial?", response=" ", group_id="partial", base_score=1.0)
    rollouts[2] = Rollout(
        prompt="partial?", response="partial 4", group_id="partial", base_score=0.0
    )
    batch = manager_with(sqlite_backend, LISTWISE).submit(rollouts).result()
    assert batch.statuses == ["scored", "empty", "gated", "scored"]
    assert batch.judge_scores[[0, 3]].tolist() == [2, 5]
    assert [sorted(shown(one)) for one in judge.requests] == [["partial 2", "partial 5"]]


def test_rollouts_of_a_group_in_any_order_meet(
    sqlite_backend: RewardManager, judge: JudgeServer
) -> None:
    judge.set_plan(honest)
    groups = [group(f"mixed{k}", 1, 2, 3, 4) for k in range(32)]
    rollouts = [rollout for column in zip(*groups, strict=True) for rollout in column]
    batch = manager_with(sqlite_backend, LISTWISE).submit(rollouts).result()
    assert batch.judge_scores.tolist() == [value for value in (1, 2, 3, 4) for _ in range(32)]
    assert len(judge.requests) == 32


def test_samples_show_other_orders(sqlite_backend: RewardManager, judge: JudgeServer) -> None:
    judge.set_plan(honest)
    sampled = {**LISTWISE, "samples": 6}
    batch = manager_with(sqlite_backend, sampled).submit(group("sampled", 1, 2, 3, 4, 5)).result()
    assert batch.judge_scores.tolist() == [1, 2, 3, 4, 5]
    assert len(judge.requests) == 6
    assert len({tuple(shown(one)) for one in judge.requests}) > 1


def test_an_adapter_fills_in_for_the_judge_beside_a_group_judge(
    backend: RewardManager, judge: JudgeServer
) -> None:
    """Trainers whose rewards are plain numbers use `group_mean` in place of `skip`."""

    def plan(request: RequestEntry) -> Action:
        if '"scores"' in str(request.messages()):
            return honest(request)
        return (
            Action(status=404)
            if "beside 4" in str(request.messages())
            else Action(text="Final score: 6")
        )

    judge.set_plan(plan)
    raw = backend.config.model_dump(mode="json")
    judges = [LISTWISE, {"name": "quality", "endpoint": "fake", "model": "m", "reasks": 0}]
    manager = RewardManager(
        with_group_mean(RewardManager({**raw, "judges": judges, "length": []}).config)
    )
    batch = manager.submit(group("beside", 2, 4, 9)).result(timeout_s=60)
    assert batch.statuses == ["scored", "rejected", "scored"]
    assert batch.components["ranking"].tolist() == [2, 4, 9]
    assert np.isnan(batch.components["quality"]).tolist() == [False, True, False]
    assert batch.rewards.tolist() == pytest.approx([1.8, 2.0, 2.5])
    assert batch.mask.all()
