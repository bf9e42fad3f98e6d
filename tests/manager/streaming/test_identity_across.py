"""Groups whose rollouts are handed over in several processes are scored as in one batch."""

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


def lengths_of(scores: list[Score | Exception]) -> list[float]:
    assert all(isinstance(score, Score) for score in scores), scores
    return [score.length_term for score in scores if isinstance(score, Score)]


def batches_of(*scores: Score | Exception) -> set[str | None]:
    return {score.batch_id if isinstance(score, Score) else str(score) for score in scores}


def test_eight_processes_get_what_one_batch_gives_and_every_rollout_is_paid_for_once(
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
        # A few at a time from each, so that groups grow and end over many windows.
        for start in range(0, len(shares[0]), 8):
            for process, share in zip(processes, shares, strict=True):
                process.hand_over(share[start : start + 8], run="eight", group_size=SIZE)
        for process, share in zip(processes, shares, strict=True):
            answers = process.scores()
            scores |= {number[row.response]: a for row, a in zip(share, answers, strict=True)}
    finally:
        for process in processes:
            process.kill()
    asked = [row for row in rollouts if row.base_score]
    assert len(judge.requests) == len(asked)
    found = [scores[i] for i in range(len(rollouts))]
    assert lengths_of(found)
    for start in range(0, len(found), SIZE):
        assert len(batches_of(*found[start : start + SIZE])) == 1
    batch = manager.submit(rollouts, run="eight").result(WAIT_S)
    rewards = [score.reward for score in found if isinstance(score, Score)]
    np.testing.assert_array_equal(np.array(rewards, np.float32), batch.rewards)
    assert len(judge.requests) == len(asked)


def test_a_late_group_is_scored_as_far_as_it_is_there_in_every_process(
    manager: RewardManager, judge: JudgeServer, other: OtherProcess
) -> None:
    members = group_of("partial", 100, 100, 160)
    where: dict[str, Any] = {"group_size": 4, "group_timeout_s": 1.0}
    other.hand_over(members[1:], **where)
    mine = manager.score(members[0], **where).result(WAIT_S)
    scores = [mine, *other.scores()]
    assert lengths_of(scores) == pytest.approx([0, 0, -1])
    assert len(batches_of(*scores)) == 1
    assert len(judge.requests) == 3
    # A straggler is late as well: it is scored, and alone.
    straggler = manager.score(rollout("partial", 9, group_id="partial"), **where)
    assert straggler.result(WAIT_S).length_term == 0


def test_a_late_group_can_be_scored_without_length_terms_in_every_process(
    manager: RewardManager, judge: JudgeServer, other: OtherProcess
) -> None:
    members = group_of("neutral", 100, 100, 160)
    where: dict[str, Any] = {
        "group_size": 4, "group_timeout_s": 1.0, "on_group_timeout": "neutral",
    }  # fmt: skip
    other.hand_over(members[1:], **where)
    scores = [manager.score(members[0], **where).result(WAIT_S), *other.scores()]
    assert [s.reward for s in scores if isinstance(s, Score)] == pytest.approx([1.5] * 3)
    assert len(judge.requests) == 3


def test_a_late_group_can_be_an_error_in_every_process(
    manager: RewardManager, judge: JudgeServer, other: OtherProcess
) -> None:
    members = group_of("error", 100, 100, 160)
    where: dict[str, Any] = {"group_size": 4, "group_timeout_s": 1.0, "on_group_timeout": "error"}
    other.hand_over(members[1:], **where)
    with pytest.raises(TimeoutError, match=r"group 'error' of run 'default': 3 of 4 rollouts"):
        manager.score(members[0], **where).result(WAIT_S)
    assert [type(error) for error in other.scores()] == [TimeoutError] * 2


@pytest.mark.parametrize("point", ["claimed", "published"])
def test_a_leader_killed_with_its_claim_is_replaced_and_nothing_happens_twice(
    manager: RewardManager, judge: JudgeServer, point: Point
) -> None:
    members = group_of(f"killed {point}", 100, 100, 100, 160)
    pending = [manager.score(one, run=point, group_size=4) for one in members[:2]]
    judge.wait_until(lambda log: len(log) == 2)
    with other_process(manager, dies_when=point) as leader:
        leader.hand_over(members[2:], run=point, group_size=4)
        leader.wait_dead()
    scores: list[Score | Exception] = [one.result(WAIT_S) for one in pending]
    # What the dead handed over is in the group, and found by its trainer's retry.
    scores += [manager.score(one, run=point, group_size=4).result(WAIT_S) for one in members[2:]]
    assert lengths_of(scores) == pytest.approx([0, 0, 0, -1])
    assert len(batches_of(*scores)) == 1
    assert len(judge.requests) == 4
    with reading(open_engine(manager.config.store.url)) as conn:
        query = text(
            "SELECT terms FROM rewards JOIN batches ON batches.id = rewards.batch_id"
            " JOIN runs ON runs.id = batches.run_id WHERE runs.name = :run"
        )
        terms = [row.terms for row in conn.execute(query, {"run": point})]
    assert sum("length_penalty" in str(one) for one in terms) == 4


def test_a_process_that_dies_loses_nothing_for_the_others(
    manager: RewardManager, judge: JudgeServer
) -> None:
    members = group_of("dies", 100, 100, 100, 160)
    with other_process(manager) as dying:
        dying.hand_over(members[2:], group_size=4)
        judge.wait_until(lambda log: len(log) == 2)
    scores: list[Score | Exception] = [
        one.result(WAIT_S) for one in [manager.score(one, group_size=4) for one in members[:2]]
    ]
    assert lengths_of(scores) == pytest.approx([0, 0])
    batch = scores[0].batch_id if isinstance(scores[0], Score) else None
    with reading(open_engine(manager.config.store.url)) as conn:
        query = text("SELECT count(*) FROM rewards WHERE batch_id = :batch")
        assert conn.execute(query, {"batch": batch}).scalar() == 4
    assert len(judge.requests) == 4


def test_a_rollout_handed_over_again_in_another_process_joins_the_one_under_way(
    manager: RewardManager, judge: JudgeServer, other: OtherProcess
) -> None:
    members = group_of("again", 100, 160)
    pending = [manager.score(members[0], group_size=2)]
    judge.wait_until(lambda log: len(log) == 1)
    other.hand_over(members[:1], group_size=2)
    assert not pending[0].done()
    pending.append(manager.score(members[1], group_size=2))
    scores = [*(one.result(WAIT_S) for one in pending), *other.scores()]
    assert lengths_of(scores) == [0, 0, 0]
    assert len(batches_of(*scores)) == 1
    assert len(judge.requests) == 2


def test_a_rollout_handed_over_again_after_its_group_was_scored_gets_what_it_got(
    manager: RewardManager, judge: JudgeServer, other: OtherProcess
) -> None:
    members = group_of("after", 100, 100, 160)
    first = manager.score_many(members, group_size=3).result(WAIT_S)
    other.hand_over(members[2:], group_size=3)
    here = manager.score_many(members[2:], group_size=3).result(WAIT_S)
    assert first[2].length_term == pytest.approx(-1)
    assert [*other.scores(), *here] == [first[2]] * 2
    assert len(judge.requests) == 3


def test_runs_and_group_sizes_stay_apart(
    manager: RewardManager, judge: JudgeServer, other: OtherProcess
) -> None:
    members = group_of("apart", 100, 100, 160)
    other.hand_over(members[:1], run="a", group_size=2)
    judge.wait_until(lambda log: len(log) == 1)
    mine = [
        manager.score(members[1], run="b", group_size=2),
        manager.score(members[1], run="a", group_size=3),
    ]
    # Nothing of the first group comes of those: it is whole only now.
    scores = [manager.score(members[2], run="a", group_size=2).result(WAIT_S), *other.scores()]
    assert len(batches_of(*scores)) == 1
    assert not any(one.done() for one in mine)
    rest = [manager.score(members[2], run="b", group_size=2)]
    rest += [manager.score(one, run="a", group_size=3) for one in (members[0], members[2])]
    assert len({one.result(WAIT_S).batch_id for one in (mine[0], rest[0])}) == 1
    assert lengths_of([one.result(WAIT_S) for one in (rest[1], mine[1], rest[2])]) == (
        pytest.approx([0, 0, -1])
    )


def test_what_is_scored_differently_is_not_gathered_together(
    manager: RewardManager, judge: JudgeServer, other: OtherProcess
) -> None:
    ungated = sibling(manager, reward={"gate": "none"})
    members = group_of("differently", 100, 160)
    other.hand_over(members[:1], group_size=2)
    mine = ungated.score(members[1], group_size=2)
    judge.wait_until(lambda log: len(log) == 2)
    theirs = manager.score(members[1], group_size=2)
    assert batches_of(theirs.result(WAIT_S)) == batches_of(*other.scores())
    assert not mine.done()


def test_threads_of_two_processes_hand_over_the_same_groups(
    manager: RewardManager, judge: JudgeServer, other: OtherProcess
) -> None:
    rollouts = [rollout("threads", i, response_tokens=100) for i in range(64)]
    other.hand_over(rollouts[::2], run="threads", group_size=4)
    results: dict[int, Score] = {}

    def hand_over(k: int) -> None:
        # Each rollout is handed over by two threads.
        for i in (*range(1 + 2 * k, 64, 16), *range(1 + 2 * ((k + 1) % 8), 64, 16)):
            results[i] = manager.score(rollouts[i], run="threads", group_size=4).result(WAIT_S)

    threads = [threading.Thread(target=hand_over, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    scores = [*results.values(), *other.scores()]
    assert len(scores) == 64
    assert lengths_of(scores) == [0] * 64
    assert len(judge.requests) == 64


def test_a_group_that_redis_forgets_is_brought_again(
    manager: RewardManager,
    judge: JudgeServer,
    other: OtherProcess,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(group_queue, "LOOK_PAUSE_S", 0.05)
    members = group_of("forgotten", 100, 100, 160)
    pending = [manager.score(one, group_size=3) for one in members[:2]]
    judge.wait_until(lambda log: len(log) == 2)
    with redis.Redis.from_url(str(manager.config.broker.url)) as client:
        client.delete(*client.keys("oyer:group:*"))
        while not client.keys("oyer:group:*"):
            assert not any(one.done() for one in pending)
    other.hand_over(members[2:], group_size=3)
    scores = [*(one.result(WAIT_S) for one in pending), *other.scores()]
    assert lengths_of(scores) == pytest.approx([0, 0, -1])


def test_without_reuse_nothing_is_judged_ahead(manager: RewardManager, judge: JudgeServer) -> None:
    anew = sibling(manager, reuse="off")
    members = group_of("anew", 100, 100, 160)
    with other_process(anew) as other:
        other.hand_over(members[:1], group_size=3)
        pending = [anew.score(one, group_size=3) for one in members[1:]]
        scores = [*other.scores(), *(one.result(WAIT_S) for one in pending)]
    assert lengths_of(scores) == pytest.approx([0, 0, -1])
    assert len(judge.requests) == 3
