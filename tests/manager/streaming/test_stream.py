"""Rollouts submitted one by one: batched, judged early, grouped, and paid for once."""

import asyncio
import threading
from typing import Any

import numpy as np
import pytest

from oyer.demo.judge_server import JudgeServer
from oyer.demo.responses import Action, named
from oyer.manager import (
    InvalidInput,
    InvalidRollout,
    MissingScores,
    RewardManager,
)
from oyer.manager.score import Score
from oyer.manager.streaming import batching_window
from oyer.manager.streaming.identity import ScoreOptions
from tests.support.scripted_backend import DEAD_JUDGE, by_response, rollout, sibling


@pytest.fixture
def banded(plain: RewardManager) -> RewardManager:
    """A manager that compares the lengths of a group."""
    return sibling(plain, length={"method": "median_band"})


async def one(manager: RewardManager, *args: Any, **where: Any) -> Score:
    """Await one score in its own task."""
    return await manager.score(*args, **where)


def test_a_single_rollout_is_scored(plain: RewardManager, judge: JudgeServer) -> None:
    score = asyncio.run(one(plain, rollout("alone"), run="stream", step=4))
    assert (score.status, score.judge_score) == ("scored", 5.0)
    assert score.reward == pytest.approx(1.5)
    assert score.judge_term == pytest.approx(0.5)
    assert score.length_term == 0
    assert score.trainable


def test_many_single_rollouts_share_a_few_batches(
    plain: RewardManager, judge: JudgeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So long that a busy machine does not interrupt the burst.
    monkeypatch.setattr(batching_window, "MAX_WINDOW_S", 2.0)
    rollouts = [rollout("many", i) for i in range(200)]
    judge.set_plan(by_response({f"number {i} is": i % 10 + 1 for i in range(200)}))

    async def main() -> list[Score]:
        return await asyncio.gather(*(one(plain, r) for r in rollouts))

    scores = asyncio.run(main())
    assert [score.judge_score for score in scores] == [i % 10 + 1 for i in range(200)]
    assert len({score.batch_id for score in scores}) <= 5
    assert len(judge.requests) == 200


def test_rollouts_of_another_run_step_or_priority_are_in_other_batches(
    plain: RewardManager, judge: JudgeServer
) -> None:
    places: list[ScoreOptions] = [
        {"run": "a"},
        {"run": "b"},
        {"run": "a", "step": 1},
        {"run": "a", "priority": "background"},
    ]
    pending = [plain.score(rollout("places", i), **place) for i, place in enumerate(places)]
    assert len({p.result(60).batch_id for p in pending}) == 4


def test_a_rollout_submitted_again_joins_the_pending_one(
    plain: RewardManager, judge: JudgeServer
) -> None:
    judge.set_plan(Action(text="Final score: 5", hold=True))
    first = plain.score(rollout("twice"))
    judge.wait_until(lambda log: len(log) == 1)
    again = plain.score_many([rollout("twice")]).scores[0]
    other_run = plain.score(rollout("twice"), run="other")
    judge.release()
    assert first.result(60).batch_id == again.result(60).batch_id
    assert other_run.result(60).batch_id != first.result().batch_id
    assert len(judge.requests) == 1


def test_a_cancelled_wait_does_not_cancel_the_score(
    plain: RewardManager, judge: JudgeServer
) -> None:
    judge.set_plan(Action(text="Final score: 5", hold=True))
    pending = plain.score(rollout("impatient"))

    async def wait_a_little() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(pending, 0.01)

    asyncio.run(wait_a_little())
    judge.wait_until(lambda log: len(log) == 1)
    assert not pending.done()
    judge.release()
    assert pending.result(60).status == "scored"


def test_several_event_loops_and_threads_can_submit(
    plain: RewardManager, judge: JudgeServer
) -> None:
    results: dict[int, list[Score]] = {}

    async def main(k: int) -> list[Score]:
        return await asyncio.gather(*(one(plain, rollout(f"loop {k}", i)) for i in range(16)))

    def run(k: int) -> None:
        results[k] = asyncio.run(main(k))

    threads = [threading.Thread(target=run, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [0, 1, 2, 3]
    assert {s.status for scores in results.values() for s in scores} == {"scored"}


def test_rollouts_whose_metadata_the_rubric_shows_are_not_the_same_rollout(
    plain: RewardManager, judge: JudgeServer
) -> None:
    (q,) = plain.config.model_dump(mode="json")["judges"]
    topical = {**q, "rubric": "{metadata.task.topic} {prompt} {response} Final score: 0 to 10"}
    manager = sibling(plain, judges=[topical])
    judge.set_plan(by_response({"first topic": 3, "second topic": 7}))
    rows = [
        rollout("equal texts", metadata={"task": {"topic": topic}, "seen": seen})
        for topic in ("first topic", "second topic")
        for seen in (1, 2)
    ]
    pending = [manager.score(row) for row in rows]
    scores = [one.result(60).judge_score for one in pending]
    assert scores == manager.submit(rows).result(60).judge_scores.tolist() == [3, 3, 7, 7]
    # What the judge is not shown makes no other rollout.
    assert [one is pending[0] for one in pending] == [True, True, False, False]
    assert len(judge.requests) == 2


def test_group_ids_are_compared_as_text(banded: RewardManager, judge: JudgeServer) -> None:
    rows = [
        rollout("typed", i, group_id=group_id, response_tokens=n)
        for i, (group_id, n) in enumerate([(1, 10), ("1", 10), (1, 30)])
    ]
    scores = banded.score_many(rows).result(60)
    batch = banded.submit(rows).result(60)
    np.testing.assert_allclose([score.reward for score in scores], batch.rewards)


def test_a_group_is_judged_while_it_is_incomplete_and_paid_for_once(
    banded: RewardManager, judge: JudgeServer
) -> None:
    lengths = [100, 100, 100, 160]
    members = [rollout("early", i, response_tokens=n) for i, n in enumerate(lengths)]
    pending = [banded.score(member, group_size=4) for member in members[:3]]
    judge.wait_until(lambda log: len(log) == 3)
    assert not any(p.done() for p in pending)
    pending.append(banded.score(members[3], group_size=4))
    scores = [p.result(60) for p in pending]
    assert len({score.batch_id for score in scores}) == 1
    # The band's defaults (DESIGN section 3): 60 % off the median is beyond the outer 50 %.
    assert [score.length_term for score in scores] == pytest.approx([0, 0, 0, -1])
    assert [score.reward for score in scores] == pytest.approx([1.5, 1.5, 1.5, 0.5])
    assert len(judge.requests) == 4


def test_sample_ids_distinguish_samples_with_the_same_text(
    banded: RewardManager, judge: JudgeServer
) -> None:
    twin = rollout("twin")
    pending = [banded.score(twin, group_size=2, sample_id=name) for name in ("a", "b")]
    pending += banded.score_many([rollout("pair")] * 2, group_size=2).scores
    batches = [p.result(60).batch_id for p in pending]
    assert batches[0] == batches[1]
    assert batches[2] == batches[3]
    assert len(judge.requests) == 2


def test_whole_groups_in_one_call_need_no_size(banded: RewardManager, judge: JudgeServer) -> None:
    lengths = [100, 160, 100, 100, 100, 100, 40, 100]
    rollouts = [rollout("whole", i, response_tokens=n) for i, n in enumerate(lengths)]
    order = [0, 4, 1, 5, 2, 6, 3, 7]

    async def main() -> list[Score]:
        return await banded.score_many([rollouts[i] for i in order])

    scores = asyncio.run(main())
    expected = [0, 0, -1, 0, 0, -1, 0, 0]
    assert [score.length_term for score in scores] == pytest.approx(expected)
    batch = banded.submit(rollouts).result(60)
    np.testing.assert_allclose([s.reward for s in scores], batch.rewards[order])


def test_an_overdue_group_is_scored_without_its_missing_rollouts_and_logged(
    banded: RewardManager, judge: JudgeServer, caplog: pytest.LogCaptureFixture
) -> None:
    late = {"group_size": 4, "group_timeout_s": 0.05}
    lengths = [100, 100, 160]
    members = [rollout("partial", i, response_tokens=n) for i, n in enumerate(lengths)]
    scores = banded.score_many(members, **late).result(60)  # type: ignore[arg-type]
    assert [score.length_term for score in scores] == pytest.approx([0, 0, -1])
    assert "3 of 4 rollouts arrived within" in caplog.text


def test_an_overdue_group_can_be_scored_without_length_terms(
    banded: RewardManager, judge: JudgeServer
) -> None:
    members = [rollout("neutral", i, response_tokens=n) for i, n in enumerate([100, 100, 160])]
    pending = banded.score_many(
        members, group_size=4, group_timeout_s=0.05, on_group_timeout="neutral"
    )
    assert [score.reward for score in pending.result(60)] == pytest.approx([1.5] * 3)
    assert len(judge.requests) == 3


def test_an_overdue_group_can_fail(banded: RewardManager, judge: JudgeServer) -> None:
    pending = banded.score(
        rollout("error"), group_size=4, group_timeout_s=0.05, on_group_timeout="error"
    )
    with pytest.raises(TimeoutError, match="1 of 4 rollouts arrived within"):
        pending.result(60)


def test_a_rollout_without_group_size_is_refused_if_lengths_are_compared(
    banded: RewardManager,
) -> None:
    with pytest.raises(InvalidRollout, match="group_size: is missing"):
        banded.score(rollout("lone"))


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ({"group_size": 0}, "group_size"),
        ({"group_size": 2, "on_group_timeout": "drop"}, "on_group_timeout"),
        ({"group_size": 2, "step": -1}, "step"),
        ({"group_size": 2, "run": ""}, "run"),
        (
            {"groupsize": 2, "group_size": 2},
            "groupsize: is not an option; did you mean `group_size`",
        ),
    ],
)
def test_a_wrong_option_is_refused_at_once(
    banded: RewardManager, where: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidInput, match=message):
        banded.score(rollout("refused"), **where)


def test_a_bad_rollout_is_refused_at_once_and_nothing_is_sent(
    plain: RewardManager, judge: JudgeServer
) -> None:
    with pytest.raises(InvalidRollout, match=r"rollouts\[1\].base_score"):
        plain.score_many([rollout("good"), rollout("bad", base_score=float("nan"))])
    plain.score(rollout("afterwards")).result(60)
    assert len(judge.requests) == 1


@pytest.mark.parametrize("failure", ["rate_limited", "dead"])
def test_a_failing_judge_is_a_status(
    plain: RewardManager, judge: JudgeServer, failure: str
) -> None:
    judge.set_plan(named("rate_limited", retry_after_s=0))
    manager = sibling(plain, judges=[DEAD_JUDGE]) if failure == "dead" else plain
    scores = manager.score_many([rollout(f"fails {failure}", i) for i in range(4)]).result(60)
    expected = "unavailable" if failure == "dead" else "rate_limited"
    assert {score.status for score in scores} == {expected}
    assert not any(score.trainable for score in scores)
    assert all(score.error for score in scores)


def test_a_missing_score_is_an_error_of_its_own_rollout_only(
    plain: RewardManager, judge: JudgeServer
) -> None:
    judge.set_plan({"rules": [{"when": {"matches": "number 1 is"}, "then": "not_found"}], "default": {"text": "Final score: 5"}})  # fmt: skip
    strict = sibling(plain, reward={"on_missing": "raise"})
    pending = strict.score_many([rollout("strict", i) for i in range(3)])
    assert pending.scores[0].result(60).reward == pytest.approx(1.5)
    assert pending.scores[2].result(60).reward == pytest.approx(1.5)
    with pytest.raises(MissingScores):
        pending.scores[1].result(60)
    with pytest.raises(MissingScores):
        pending.result(60)
