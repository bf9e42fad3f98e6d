"""Groups whose rollouts are submitted by several processes are scored as in one batch."""

import random
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import redis
from sqlalchemy import text

from oyer.demo.judge_server import JudgeServer
from oyer.manager import RewardManager, Rollout
from oyer.manager.score import Score
from oyer.manager.streaming import group_queue
from oyer.models.engine import open_engine, reading
from tests.support.scripted_backend import Running, by_response, rollout, sibling
from tests.support.second_trainer import OtherProcess, Point, other_process

PROCESSES, GROUPS, SIZE = 8, 64, 8
WAIT_S = 60.0
OVERDUE_S = 4.0
"""Longer than the rollouts of two processes need to come, however busy the machine is."""


@pytest.fixture(scope="module")
def backend_changes() -> dict[str, Any]:
    return {"length": {"method": "median_band"}}


@pytest.fixture
def manager(running: Running) -> RewardManager:
    return running[0]


@pytest.fixture(scope="module")
def other(running: Running) -> Iterator[OtherProcess]:
    with other_process(running[0]) as process:
        yield process


def group_of(tag: str, *lengths: int) -> list[Rollout]:
    return [
        rollout(tag, i, group_id=tag, prompt=f"{tag}?", response_tokens=n)
        for i, n in enumerate(lengths)
    ]


def length_terms_of(scores: list[Score | Exception]) -> list[float]:
    assert all(isinstance(score, Score) for score in scores), scores
    return [score.length_term for score in scores if isinstance(score, Score)]


def batches_of(*scores: Score | Exception) -> set[str | None]:
    return {score.batch_id if isinstance(score, Score) else str(score) for score in scores}


def test_eight_processes_get_the_rewards_of_one_batch_and_each_rollout_is_paid_for_once(
    manager: RewardManager, judge: JudgeServer
) -> None:
    rng = random.Random(5)
    rollouts = [
        rollout(
            "eight",
            i,
            group_id=f"eight-{i // SIZE}",
            prompt=f"eight question {i // SIZE}",
            response_tokens=rng.randint(40, 160),
            base_score=float(rng.random() < 0.9),
        )
        for i in range(GROUPS * SIZE)
    ]
    number = {row.response: i for i, row in enumerate(rollouts)}
    judge.set_plan(by_response({f"number {i} is": i % 10 + 1 for i in range(len(rollouts))}))
    shuffled = rng.sample(rollouts, len(rollouts))
    shares = [shuffled[k::PROCESSES] for k in range(PROCESSES)]
    processes = [OtherProcess(manager) for _ in shares]
    scores: dict[int, Score | Exception] = {}
    try:
        for process in processes:
            # Once all have started: the time of a group begins with its first rollout.
            process.submit([])
        # A few at a time from each process, so that groups grow over many batching windows.
        for start in range(0, len(shares[0]), 8):
            for process, share in zip(processes, shares, strict=True):
                process.submit(share[start : start + 8], run="eight", group_size=SIZE)
        for process, share in zip(processes, shares, strict=True):
            answers = process.scores()
            scores |= {number[row.response]: a for row, a in zip(share, answers, strict=True)}
    finally:
        for process in processes:
            process.kill()
    asked = [row for row in rollouts if row.base_score]
    assert len(judge.requests) == len(asked)
    found = [scores[i] for i in range(len(rollouts))]
    assert length_terms_of(found)
    for start in range(0, len(found), SIZE):
        assert len(batches_of(*found[start : start + SIZE])) == 1
    batch = manager.submit(rollouts, run="eight").result(WAIT_S)
    rewards = [score.reward for score in found if isinstance(score, Score)]
    np.testing.assert_array_equal(np.array(rewards, np.float32), batch.rewards)
    assert len(judge.requests) == len(asked)


def test_an_overdue_group_is_scored_without_its_missing_rollouts(
    manager: RewardManager, judge: JudgeServer, other: OtherProcess
) -> None:
    members = group_of("partial", 100, 100, 160)
    where: dict[str, Any] = {"group_size": 4, "group_timeout_s": OVERDUE_S}
    other.submit(members[1:], **where)
    mine = manager.score(members[0], **where).result(WAIT_S)
    scores = [mine, *other.scores()]
    assert length_terms_of(scores) == pytest.approx([0, 0, -1])
    assert len(batches_of(*scores)) == 1
    assert len(judge.requests) == 3
    # A rollout that arrives later is scored alone.
    later = manager.score(rollout("partial", 9, group_id="partial"), **where)
    assert later.result(WAIT_S).length_term == 0


def test_an_overdue_group_can_be_scored_without_length_terms(
    manager: RewardManager, judge: JudgeServer, other: OtherProcess
) -> None:
    members = group_of("neutral", 100, 100, 160)
    where: dict[str, Any] = {
        "group_size": 4, "group_timeout_s": OVERDUE_S, "on_group_timeout": "neutral",
    }  # fmt: skip
    other.submit(members[1:], **where)
    scores = [manager.score(members[0], **where).result(WAIT_S), *other.scores()]
    assert [s.reward for s in scores if isinstance(s, Score)] == pytest.approx([1.5] * 3)
    assert len(judge.requests) == 3


def test_an_overdue_group_can_fail_in_every_process(
    manager: RewardManager, judge: JudgeServer, other: OtherProcess
) -> None:
    members = group_of("error", 100, 100, 160)
    where: dict[str, Any] = {
        "group_size": 4,
        "group_timeout_s": OVERDUE_S,
        "on_group_timeout": "error",
    }
    other.submit(members[1:], **where)
    with pytest.raises(TimeoutError, match=r"group 'error' of run 'default': 3 of 4 rollouts"):
        manager.score(members[0], **where).result(WAIT_S)
    assert [type(error) for error in other.scores()] == [TimeoutError] * 2


@pytest.mark.parametrize("point", ["claimed", "published"])
def test_a_claim_of_a_killed_process_is_taken_over_and_nothing_is_done_twice(
    manager: RewardManager, judge: JudgeServer, point: Point
) -> None:
    members = group_of(f"killed {point}", 100, 100, 100, 160)
    pending = [manager.score(one, run=point, group_size=4) for one in members[:2]]
    judge.wait_until(lambda log: len(log) == 2)
    with other_process(manager, dies_when=point) as killed:
        killed.submit(members[2:], run=point, group_size=4)
        killed.wait_dead()
    scores: list[Score | Exception] = [one.result(WAIT_S) for one in pending]
    # The rollouts of the killed process are in the group, and its trainer's retry finds them.
    scores += [manager.score(one, run=point, group_size=4).result(WAIT_S) for one in members[2:]]
    assert length_terms_of(scores) == pytest.approx([0, 0, 0, -1])
    assert len(batches_of(*scores)) == 1
    assert len(judge.requests) == 4
    with reading(open_engine(manager.config.store.url)) as conn:
        query = text(
            "SELECT terms FROM rewards JOIN batches ON batches.id = rewards.batch_id"
            " JOIN runs ON runs.id = batches.run_id WHERE runs.name = :run"
        )
        terms = [row.terms for row in conn.execute(query, {"run": point})]
    assert sum("length_penalty" in str(one) for one in terms) == 4


def test_a_group_keeps_the_rollouts_of_a_killed_process(
    manager: RewardManager, judge: JudgeServer
) -> None:
    members = group_of("dies", 100, 100, 100, 160)
    with other_process(manager) as dying:
        dying.submit(members[2:], group_size=4)
        judge.wait_until(lambda log: len(log) == 2)
    scores: list[Score | Exception] = [
        one.result(WAIT_S) for one in [manager.score(one, group_size=4) for one in members[:2]]
    ]
    assert length_terms_of(scores) == pytest.approx([0, 0])
    batch = scores[0].batch_id if isinstance(scores[0], Score) else None
    with reading(open_engine(manager.config.store.url)) as conn:
        query = text("SELECT count(*) FROM rewards WHERE batch_id = :batch")
        assert conn.execute(query, {"batch": batch}).scalar() == 4
    assert len(judge.requests) == 4


def test_a_rollout_submitted_again_in_another_process_joins_the_pending_one(
    manager: RewardManager, judge: JudgeServer, other: OtherProcess
) -> None:
    members = group_of("again", 100, 160)
    pending = [manager.score(members[0], group_size=2)]
    judge.wait_until(lambda log: len(log) == 1)
    other.submit(members[:1], group_size=2)
    assert not pending[0].done()
    pending.append(manager.score(members[1], group_size=2))
    scores = [*(one.result(WAIT_S) for one in pending), *other.scores()]
    assert length_terms_of(scores) == [0, 0, 0]
    assert len(batches_of(*scores)) == 1
    assert len(judge.requests) == 2


def test_a_rollout_submitted_again_after_its_group_was_scored_gets_the_same_score(
    manager: RewardManager, judge: JudgeServer, other: OtherProcess
) -> None:
    members = group_of("after", 100, 100, 160)
    first = manager.score_many(members, group_size=3).result(WAIT_S)
    other.submit(members[2:], group_size=3)
    here = manager.score_many(members[2:], group_size=3).result(WAIT_S)
    assert first[2].length_term == pytest.approx(-1)
    assert [*other.scores(), *here] == [first[2]] * 2
    assert len(judge.requests) == 3


def test_runs_and_group_sizes_stay_apart(
    manager: RewardManager, judge: JudgeServer, other: OtherProcess
) -> None:
    members = group_of("apart", 100, 100, 160)
    other.submit(members[:1], run="a", group_size=2)
    judge.wait_until(lambda log: len(log) == 1)
    mine = [
        manager.score(members[1], run="b", group_size=2),
        manager.score(members[1], run="a", group_size=3),
    ]
    # Those are of other groups: the first is complete only now.
    scores = [manager.score(members[2], run="a", group_size=2).result(WAIT_S), *other.scores()]
    assert len(batches_of(*scores)) == 1
    assert not any(one.done() for one in mine)
    rest = [manager.score(members[2], run="b", group_size=2)]
    rest += [manager.score(one, run="a", group_size=3) for one in (members[0], members[2])]
    assert len({one.result(WAIT_S).batch_id for one in (mine[0], rest[0])}) == 1
    assert length_terms_of([one.result(WAIT_S) for one in (rest[1], mine[1], rest[2])]) == (
        pytest.approx([0, 0, -1])
    )


def test_rollouts_of_other_plans_form_other_groups(
    manager: RewardManager, judge: JudgeServer, other: OtherProcess
) -> None:
    ungated = sibling(manager, reward={"gate": "none"})
    members = group_of("differently", 100, 160)
    other.submit(members[:1], group_size=2)
    mine = ungated.score(members[1], group_size=2)
    judge.wait_until(lambda log: len(log) == 2)
    theirs = manager.score(members[1], group_size=2)
    assert batches_of(theirs.result(WAIT_S)) == batches_of(*other.scores())
    assert not mine.done()


def test_threads_of_two_processes_submit_the_same_groups(
    manager: RewardManager, judge: JudgeServer, other: OtherProcess
) -> None:
    rollouts = [rollout("threads", i, response_tokens=100) for i in range(64)]
    other.submit(rollouts[::2], run="threads", group_size=4)
    results: dict[int, Score] = {}

    def submit(k: int) -> None:
        # Each rollout is submitted by two threads.
        for i in (*range(1 + 2 * k, 64, 16), *range(1 + 2 * ((k + 1) % 8), 64, 16)):
            results[i] = manager.score(rollouts[i], run="threads", group_size=4).result(WAIT_S)

    threads = [threading.Thread(target=submit, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    scores = [*results.values(), *other.scores()]
    assert len(scores) == 64
    assert length_terms_of(scores) == [0] * 64
    assert len(judge.requests) == 64


def test_a_group_that_redis_lost_is_joined_again(
    manager: RewardManager,
    judge: JudgeServer,
    other: OtherProcess,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(group_queue, "READ_PAUSE_S", 0.05)
    members = group_of("forgotten", 100, 100, 160)
    pending = [manager.score(one, group_size=3) for one in members[:2]]
    judge.wait_until(lambda log: len(log) == 2)
    with redis.Redis.from_url(str(manager.config.broker.url)) as client:
        client.delete(*client.keys("oyer:group:*"))
        while not client.keys("oyer:group:*"):
            assert not any(one.done() for one in pending)
    other.submit(members[2:], group_size=3)
    scores = [*(one.result(WAIT_S) for one in pending), *other.scores()]
    assert length_terms_of(scores) == pytest.approx([0, 0, -1])


def test_without_reuse_nothing_is_judged_early(manager: RewardManager, judge: JudgeServer) -> None:
    anew = sibling(manager, reuse="off")
    members = group_of("anew", 100, 100, 160)
    with other_process(anew) as other:
        other.submit(members[:1], group_size=3)
        pending = [anew.score(one, group_size=3) for one in members[1:]]
        scores = [*other.scores(), *(one.result(WAIT_S) for one in pending)]
    assert length_terms_of(scores) == pytest.approx([0, 0, -1])
    assert len(judge.requests) == 3
