"""Groups whose last rollouts never come: closed by any process, at any time, and paid for once."""

import logging
import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from sqlalchemy import text

from oyer.demo.judge_server import JudgeServer
from oyer.manager import InvalidInput, RewardManager, Rollout
from oyer.manager.score import Score
from oyer.manager.streaming import group_queue
from oyer.manager.streaming.group_store import GroupStore
from oyer.manager.streaming.pending import Pending
from oyer.models.engine import open_engine, reading
from tests.support.group_parts import close, join, rows_of, store_on
from tests.support.scripted_backend import Running, rollout
from tests.support.second_trainer import OtherProcess, other_process

WAIT_S = 60.0
LONGEST_S = 60.0
"""How long a group waits before any other was seen."""
HOUR: dict[str, Any] = {"group_size": 4, "group_timeout_s": 600.0, "step": 1}
"""Tests end only if groups are closed."""


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


@pytest.fixture
def here(redis_url: str) -> GroupStore:
    return store_on(redis_url)


@pytest.fixture
def there(redis_url: str) -> GroupStore:
    return store_on(redis_url)


def group_of(tag: str, *lengths: int) -> list[Rollout]:
    return [
        rollout(tag, i, group_id=tag, prompt=f"{tag}?", response_tokens=n)
        for i, n in enumerate(lengths)
    ]


def terms_and_batches_of(scores: Sequence[Score | Exception]) -> tuple[Any, int]:
    found = [score for score in scores if isinstance(score, Score)]
    assert len(found) == len(scores), scores
    return [score.length_term for score in found], len({score.batch_id for score in found})


def test_a_closed_group_is_compared_at_once_without_its_missing_rollouts(
    manager: RewardManager, judge: JudgeServer
) -> None:
    members = group_of("closed", 100, 100, 160)
    pending = [manager.score(one, **HOUR) for one in members]
    # They are in the process's open batch: the close follows them.
    manager.close_groups(["closed"], **HOUR)
    scores = [one.result(WAIT_S) for one in pending]
    assert terms_and_batches_of(scores) == (pytest.approx([0, 0, -1]), 1)
    # Closed twice, it is paid for once; a rollout that comes nevertheless is scored alone.
    manager.close_groups(["closed"], **HOUR).result(WAIT_S)
    again = manager.score(members[2], **HOUR).result(WAIT_S)
    assert (again.batch_id, again.length_term) == (scores[2].batch_id, -1)
    assert len(judge.requests) == 3
    late = manager.score(rollout("closed", 9, group_id="closed"), **HOUR).result(WAIT_S)
    assert late.length_term == 0
    assert late.batch_id != scores[0].batch_id


def length_terms_of(manager: RewardManager, members: list[Rollout]) -> list[float]:
    return [score.length_term for score in manager.score_many(members, run="alone").result(WAIT_S)]


def statuses_of(manager: RewardManager, run: str) -> list[str | None]:
    query = text(
        "SELECT rewards.length_status FROM rewards JOIN batches ON batches.id = rewards.batch_id"
        " JOIN runs ON runs.id = batches.run_id WHERE runs.name = :run AND rewards.terms LIKE :term"
        " ORDER BY rewards.rollout_index"
    )
    with reading(open_engine(manager.config.store.url)) as conn:
        found = conn.execute(query, {"run": run, "term": "%length_penalty%"})
        return [row.length_status for row in found]


def warnings_about_groups(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the warnings of the group queue; other threads may log others."""
    return [
        one.getMessage()
        for one in caplog.records
        if one.name == group_queue.__name__ and one.levelno >= logging.WARNING
    ]


def test_an_incomplete_group_is_so_on_record_and_a_whole_one_is_not(
    manager: RewardManager, judge: JudgeServer, caplog: pytest.LogCaptureFixture
) -> None:
    overdue = {**HOUR, "group_timeout_s": 0.05, "run": "overdue"}
    manager.score_many(group_of("too few", 100, 160), **overdue).result(WAIT_S)
    (warning,) = warnings_about_groups(caplog)
    assert "group 'too few' of run 'overdue': 2 of 4 rollouts arrived within" in warning
    assert "`close_groups`" in warning
    assert statuses_of(manager, "overdue") == ["incomplete"] * 2
    late = manager.score(rollout("too few", 9, group_id="too few"), **overdue).result(WAIT_S)
    assert late.trainable
    assert statuses_of(manager, "overdue") == ["incomplete"] * 3
    whole = {**HOUR, "run": "whole"}
    manager.score_many(group_of("enough", 100, 100, 100, 160), **whole).result(WAIT_S)
    assert statuses_of(manager, "whole") == [None] * 4
    manager.submit(group_of("batch", 100, 160), run="batch").result(WAIT_S)
    assert statuses_of(manager, "batch") == [None] * 2


def test_a_group_that_is_known_to_be_incomplete_is_no_warning(
    manager: RewardManager, judge: JudgeServer, caplog: pytest.LogCaptureFixture
) -> None:
    told = {**HOUR, "run": "told"}
    manager.close_groups(["told"], absent=2, **told)
    manager.score_many(group_of("told", 100, 160), **told).result(WAIT_S)
    assert not warnings_about_groups(caplog)
    assert statuses_of(manager, "told") == ["incomplete"] * 2


def test_another_process_closes_a_group(
    manager: RewardManager, judge: JudgeServer, other: OtherProcess
) -> None:
    members = group_of("elsewhere", 100, 100, 160)
    pending = [manager.score(one, **HOUR) for one in members]
    judge.wait_until(lambda log: len(log) == 3)
    other.close_groups(["elsewhere"], **HOUR)
    scores = [one.result(WAIT_S) for one in pending]
    assert terms_and_batches_of(scores) == (pytest.approx([0, 0, -1]), 1)
    assert len(judge.requests) == 3


@pytest.mark.parametrize("absent", [1, ["the third one"]])
def test_a_group_closes_with_the_last_rollout_that_comes_if_the_absent_are_known_before(
    manager: RewardManager, judge: JudgeServer, other: OtherProcess, absent: int | list[str]
) -> None:
    tag = f"absent {absent}"
    members = group_of(tag, 100, 100, 160)
    # Named by both processes, it is one rollout.
    other.close_groups([tag], absent=absent, **HOUR)
    manager.close_groups([tag], absent=absent, **HOUR).result(WAIT_S)
    first = manager.score(members[0], **HOUR)
    judge.wait_until(lambda log: len(log) == 1)
    other.submit(members[1:2], **HOUR)
    judge.wait_until(lambda log: len(log) == 2)
    assert not first.done()
    last = manager.score(members[2], **HOUR)
    scores = [first.result(WAIT_S), *other.scores(), last.result(WAIT_S)]
    assert terms_and_batches_of(scores) == (pytest.approx([0, 0, -1]), 1)
    assert len(judge.requests) == 3


def test_in_any_order_each_group_is_one_batch_and_each_rollout_is_paid_for_once(
    manager: RewardManager, judge: JudgeServer, other: OtherProcess
) -> None:
    rng = random.Random(12)
    counts = {f"any order {k}": rng.randint(1, 4) for k in range(24)}
    groups = {tag: group_of(tag, *[100] * (n - 1), 160) for tag, n in counts.items()}
    events: list[tuple[str, Rollout | None]] = [(tag, None) for tag in counts]
    events += [(tag, one) for tag, members in groups.items() for one in members]
    rng.shuffle(events)
    batches: dict[str, list[Pending[Score]]] = defaultdict(list)
    theirs: list[str] = []
    for tag, one in events:
        here = rng.random() < 0.5
        if one is None:
            process = manager if here else other
            process.close_groups([tag], absent=4 - counts[tag], **HOUR)
        elif here:
            batches[tag].append(manager.score(one, **HOUR))
        else:
            other.submit([one], **HOUR)
            theirs.append(tag)
    found: dict[str, list[Score | Exception]] = {
        tag: [one.result(WAIT_S) for one in pending] for tag, pending in batches.items()
    }
    for tag, score in zip(theirs, other.scores(), strict=True):
        found.setdefault(tag, []).append(score)
    for tag, n in counts.items():
        terms, in_batches = terms_and_batches_of(found[tag])
        assert (len(terms), in_batches) == (n, 1)
        assert sorted(terms) == sorted(length_terms_of(manager, groups[tag]))
    assert len(judge.requests) == sum(counts.values())


def test_a_group_that_is_never_closed_waits_as_long_as_earlier_ones_suggest(
    manager: RewardManager, judge: JudgeServer
) -> None:
    where: dict[str, Any] = {"group_size": 2, "run": "earlier"}
    for one in [manager.score(one, step=0, **where) for one in group_of("whole", 100, 160)]:
        one.result(WAIT_S)
    lonely = manager.score(group_of("lonely", 100)[0], step=1, **where)
    assert lonely.result(LONGEST_S / 2).length_term == 0


def test_the_policy_of_a_closed_group_is_its_own(
    manager: RewardManager, judge: JudgeServer
) -> None:
    neutral = [
        manager.score(one, on_group_timeout="neutral", **HOUR)
        for one in group_of("neutral", 100, 100, 160)
    ]
    failing = manager.score(group_of("error", 100)[0], on_group_timeout="error", **HOUR)
    manager.close_groups(["neutral", "error"], **HOUR)
    assert [one.result(WAIT_S).length_term for one in neutral] == [0, 0, 0]
    with pytest.raises(TimeoutError, match=r"group 'error' of run 'default': 1 of 4 rollouts"):
        failing.result(WAIT_S)


def test_groups_of_one_prompt_are_closed_by_their_prompts(
    manager: RewardManager, judge: JudgeServer
) -> None:
    where = {**HOUR, "one_prompt": True}
    pending = [manager.score(one, **where) for one in group_of("prompted", 100, 160)]
    manager.close_groups(["prompted"], prompts=["another?"], **where).result(WAIT_S)
    assert not any(one.done() for one in pending)
    manager.close_groups(["prompted"], prompts=["prompted?"], **where)
    assert terms_and_batches_of([one.result(WAIT_S) for one in pending])[1] == 1


@pytest.mark.parametrize(
    ("wrong", "names"),
    [
        ({"group_size": None}, "group_size"),
        ({"absent": 5}, "absent"),
        ({"absent": "q"}, "absent"),
        ({"one_prompt": True}, "prompts"),
        ({"prompts": []}, "prompts"),
        ({"step": -1}, "step"),
    ],
)
def test_a_wrong_argument_is_named(
    manager: RewardManager, wrong: dict[str, Any], names: str
) -> None:
    with pytest.raises(InvalidInput, match=f"^{names}: "):
        manager.close_groups(["q"], **{**HOUR, **wrong})


def test_a_group_closed_before_its_first_rollout_does_not_wait(
    here: GroupStore, there: GroupStore
) -> None:
    close(there)
    group = join(here, "a", "b")[0].group
    assert (group.state, list(group.ids), group.late) == ("claimed", ["a", "b"], True)
    assert rows_of(join(there, "c")) == [(-1, True)]
    # The same name in another step is another group.
    assert join(there, "d", step=2)[0].group.state == "open"


def test_the_close_of_another_step_closes_nothing_that_is_not_there(
    here: GroupStore, there: GroupStore
) -> None:
    close(there, step=2)
    close(there, ["x", "y"], step=3)
    assert join(here, "a", step=4)[0].group.state == "open"


def test_a_whole_group_that_is_closed_again_does_not_affect_the_next(
    here: GroupStore, there: GroupStore
) -> None:
    first = join(here, "a", "b", "c")[0].group
    close(there)
    assert here.read([first.key])[0].state == "claimed"
    joined = join(here, "d")[0]
    assert (joined.row, joined.group.state) == (0, "open")


def test_absent_rollouts_are_counted_once_each(here: GroupStore, there: GroupStore) -> None:
    key = join(here, "a")[0].group.key
    for _ in range(3):
        close(there, ["x"])
    assert here.changed() == {"g"}
    assert here.read([key])[0].state == "open"
    close(there, ["x", "y"])
    group = here.read([key])[0]
    assert (group.state, group.n, group.late) == ("claimed", 1, True)


def test_with_all_its_rollouts_a_group_is_whole_whoever_was_said_to_be_absent(
    here: GroupStore, there: GroupStore
) -> None:
    close(there, ["x"])
    group = join(here, "a", "b", "c")[0].group
    assert (group.state, group.n, group.late) == ("claimed", 3, False)
