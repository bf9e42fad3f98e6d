"""Panels, fall-backs and budgets, in whole batches and on record."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oyer.demo.judge_server import JudgeServer
from oyer.demo.replies import token_count
from oyer.demo.request_log import RequestEntry
from oyer.demo.responses import Action, named
from oyer.manager import JudgeOutage, RewardManager
from oyer.protocol.redis_client import connect
from oyer.tasks.coordination.budget import NANO, budget_key
from tests.integration.test_main_job import read
from tests.support.rollouts import rollouts_of

MakeManager = Callable[..., RewardManager]

SIX = "Final score: 6"
CALL_USD = token_count(SIX.encode()) / 1000
"""What a reply of `SIX` costs at the backend's price."""


def number_in(arrival: RequestEntry) -> int:
    text = "\n".join(content for _, content in arrival.messages())
    return int(text.partition("the answer number ")[2].split()[0])


def panel(*judges: dict[str, Any]) -> dict[str, Any]:
    return {"judges": [{"endpoint": "fake", "reasks": 0, **judge} for judge in judges]}


def test_a_panel_has_a_score_with_enough_of_its_members(
    manager_with: MakeManager, judge: JudgeServer
) -> None:
    replies = {"a": Action(text=SIX), "b": Action(text="Final score: 30"), "c": named("not_found")}
    judge.set_plan(lambda arrival: replies[arrival.model or ""])
    three = panel(
        {"name": "a", "model": "a", "scale": (0, 10), "weight": 0.1, "normalize": True},
        {"name": "b", "model": "b", "scale": (0, 100), "weight": 0.1, "normalize": True},
        {"name": "c", "model": "c", "scale": (0, 10), "weight": 0.1, "normalize": True},
    )
    manager = manager_with({**three, "reward": {"min_valid_judges": 2}})
    batch = manager.submit(rollouts_of("panel", 4)).result(timeout_s=60)
    assert batch.statuses == ["scored"] * 4
    assert batch.terms["judge:a"] == pytest.approx([0.06] * 4)
    assert batch.terms["judge:b"] == pytest.approx([0.03] * 4)
    assert batch.terms["judge:c"] == pytest.approx([0.045] * 4)
    assert batch.rewards == pytest.approx([1.135] * 4)
    rows = read(manager, "SELECT judge, score FROM judgements WHERE batch_id = :id", id=batch.id)
    assert {(row["judge"], row["score"]) for row in rows} == {("a", 6), ("b", 30), ("c", None)}
    strict = manager_with({**three, "reward": {"min_valid_judges": 3}})
    assert strict.submit(rollouts_of("panel", 4)).result(timeout_s=60).statuses == ["rejected"] * 4


def test_samples_are_asked_one_by_one_and_aggregated(
    manager_with: MakeManager, judge: JudgeServer
) -> None:
    judge.set_plan(Action(text=["Final score: 2", "Final score: 3", "Final score: 10"]))
    manager = manager_with(samples=3, aggregate="median", temperature=1.0)
    batch = manager.submit(rollouts_of("samples", 1)).result(timeout_s=60)
    assert batch.judge_scores.tolist() == [3.0]
    rows = read(manager, "SELECT sample FROM judgements WHERE batch_id = :id", id=batch.id)
    assert sorted(row["sample"] for row in rows) == [0, 1, 2]


def fails_on_five(arrival: RequestEntry) -> Action:
    """Let the judge fail on one rollout, and its fall-back on none."""
    if arrival.model == "spare":
        return Action(text="Final score: 9")
    return named("not_found") if number_in(arrival) == 5 else Action(text=SIX)


def test_a_fall_back_judges_the_whole_group_of_a_failure_and_no_other(
    manager_with: MakeManager, judge: JudgeServer
) -> None:
    judge.set_plan(fails_on_five)
    manager = manager_with(fallback={"endpoint": "other", "model": "spare"})
    batch = manager.submit(rollouts_of("fall back", 12)).result(timeout_s=60)
    assert batch.judge_scores.tolist() == [6.0] * 4 + [9.0] * 4 + [6.0] * 4
    assert batch.statuses == ["scored"] * 12
    rows = read(
        manager,
        "SELECT * FROM judgements WHERE batch_id = :id AND judge = 'q/fallback' ORDER BY 3",
        id=batch.id,
    )
    assert [row["rollout_index"] for row in rows] == [4, 5, 6, 7]
    assert {(row["endpoint"], row["model"], row["score"]) for row in rows} == {
        ("other", "spare", 9.0)
    }
    own = read(
        manager,
        "SELECT status FROM judgements WHERE batch_id = :id AND judge = 'q' ORDER BY rollout_index",
        id=batch.id,
    )
    assert [row["status"] for row in own].count("scored") == 11
    assert batch.usage.calls == 16


def test_a_group_over_several_chunks_has_no_fall_back_and_its_row_says_so(
    manager_with: MakeManager, judge: JudgeServer
) -> None:
    judge.set_plan(lambda arrival: named("not_found") if arrival.model == "m" else Action(text=SIX))
    manager = manager_with(fallback={"endpoint": "other", "model": "spare"})
    rollouts = rollouts_of("split", 72)
    scattered = [replace(rollout, group_id=i % 2) for i, rollout in enumerate(rollouts)]
    batch = manager.submit(scattered).result(timeout_s=60)
    assert batch.statuses == ["rejected"] * 72
    rows = read(manager, "SELECT error FROM judgements WHERE batch_id = :id", id=batch.id)
    assert len(rows) == 72
    assert all("no fall-back" in row["error"] for row in rows)


def test_a_group_larger_than_a_chunk_falls_back_as_a_whole(
    manager_with: MakeManager, judge: JudgeServer
) -> None:
    judge.set_plan(fails_on_five)
    manager = manager_with(fallback={"endpoint": "other", "model": "spare"})
    rollouts = rollouts_of("large", 100, group_id="one large group")
    batch = manager.submit(rollouts).result(timeout_s=60)
    assert batch.judge_scores.tolist() == [9.0] * 100


def test_a_run_stops_at_its_budget_over_batches_and_workers(
    manager_with: MakeManager, judge: JudgeServer
) -> None:
    judge.set_plan(Action(text=SIX))
    budget = {"budget": {"usd": 20 * CALL_USD}}
    manager = manager_with(budget, max_tokens=8)
    counts = []
    for i in range(3):
        batch = manager.submit(rollouts_of(f"money {i}", 16), run="money").result(timeout_s=60)
        counts.append(batch.statuses.count("scored"))
        assert set(batch.statuses) <= {"scored", "over_budget"}
    spent = read(
        manager,
        """
        SELECT sum(cost_usd) AS usd FROM attempts
        JOIN batches ON batches.id = batch_id JOIN runs ON runs.id = run_id WHERE name = 'money'
        """,
    )
    # A call is estimated at 8 tokens and costs 4, so the last one may find too little left.
    assert counts[0] == 16
    assert counts[2] == 0
    assert 19 <= sum(counts) <= 20
    assert spent[0]["usd"] == pytest.approx(sum(counts) * CALL_USD)
    assert "budget" in batch.first_errors["over_budget"]
    assert np.isnan(batch.rewards).all()
    other = manager.submit(rollouts_of("money 9", 4), run="another run").result(timeout_s=60)
    assert other.statuses == ["scored"] * 4


def test_replies_without_usage_cost_the_same_on_record_and_in_the_budget(
    manager_with: MakeManager, judge: JudgeServer
) -> None:
    judge.set_plan(named("no_usage", text=SIX))
    manager = manager_with({"budget": {"usd": 1.0}}, max_tokens=8)
    batch = manager.submit(rollouts_of("no usage", 4), run="no usage").result(timeout_s=60)
    assert batch.usage.tokens == 0
    # 14 bytes are estimated as 4 tokens.
    assert batch.usage.cost_usd == pytest.approx(4 * 4 / 1000)
    with connect(str(manager.config.broker.url)) as client:
        spent = client.hget(budget_key("no usage"), "spent")
    assert int(spent or 0) / NANO == pytest.approx(batch.usage.cost_usd)
    query = "SELECT sum(cost_usd) AS usd FROM judgements WHERE batch_id = :id"
    assert read(manager, query, id=batch.id)[0]["usd"] == pytest.approx(batch.usage.cost_usd)


def test_billed_failures_count(manager_with: MakeManager, judge: JudgeServer) -> None:
    judge.set_plan(Action(text="I like it."))
    manager = manager_with({"budget": {"usd": 0.02}}, max_tokens=8, reasks=3)
    batch = manager.submit(rollouts_of("billed", 8), run="billed").result(timeout_s=60)
    assert "scored" not in batch.statuses
    assert 0.01 <= batch.usage.cost_usd <= 0.02


def test_past_the_soft_mark_each_judge_is_asked_for_one_sample(
    manager_with: MakeManager, judge: JudgeServer
) -> None:
    judge.set_plan(Action(text=SIX))
    soft = {"budget": {"usd": 1.0, "soft_fraction": 4 * CALL_USD}}
    manager = manager_with(soft, samples=4, min_valid=4, max_tokens=8, temperature=1.0)
    first = manager.submit(rollouts_of("soft", 2), run="soft").result(timeout_s=60)
    second = manager.submit(rollouts_of("softer", 4), run="soft").result(timeout_s=60)
    assert first.statuses == ["scored"] * 2
    assert second.statuses == ["scored"] * 4
    assert second.usage.calls == 4


def test_an_outage_is_raised_and_logged_once(manager_with: MakeManager, judge: JudgeServer) -> None:
    judge.set_plan(named("not_found"))
    manager = manager_with({"reward": {"max_failed_fraction": 0.5}})
    with pytest.raises(JudgeOutage, match=r"32 of 32 .*32 rejected.*first errors: .*404") as raised:
        manager.submit(rollouts_of("outage", 32)).result(timeout_s=60)
    assert raised.value.batch.statuses == ["rejected"] * 32
    assert not raised.value.batch.mask.any()
    folder = Path(manager.config.store.url.removeprefix("sqlite:///")).parent
    lines = [line for log in folder.glob("*.log") for line in log.read_text().splitlines()]
    about = [line for line in lines if raised.value.batch.id in line]
    warnings = [line for line in about if " WARNING " in line]
    assert len(warnings) == 1, about
    assert "32 of 32" in warnings[0]
