"""Samples become one verdict; a fallback judges a whole group or none of it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oyer.config.reward import JudgeConfig
from oyer.models.rows import JudgementRow
from oyer.protocol.status import Status
from oyer.tasks.judging.aggregate import (
    Verdict,
    aggregate,
    chunk_groups,
    groups_to_fall_back,
    with_fallback,
)


def judge(**fields: object) -> JudgeConfig:
    return JudgeConfig.model_validate({"name": "q", "endpoint": "e", "model": "m", **fields})


def sample(number: int, score: float | None = None, status: str = "scored") -> JudgementRow:
    return {
        "rollout_index": 0,
        "judge": "q",
        "sample": number,
        "status": status,
        "score": score,
        "attempts": 1,
        "source": "called",
        "error": None if status == "scored" else f"was {status}",
    }


@pytest.mark.parametrize(("how", "score"), [("mean", 5.0), ("median", 4.0)])
def test_scored_samples_are_averaged(how: str, score: float) -> None:
    rows = [sample(0, 2.0), sample(1, 4.0), sample(2, 9.0)]
    assert aggregate(rows, judge(samples=3, aggregate=how)).score == score


def test_too_few_valid_samples_give_the_first_failure() -> None:
    rows = [sample(0, 2.0), sample(1, status="timeout"), sample(2, status="refused")]
    verdict = aggregate(rows, judge(samples=3, min_valid=2))
    assert (verdict.score, verdict.status, verdict.error) == (None, "timeout", "was timeout")


def test_samples_that_the_budget_refused_do_not_count_towards_min_valid() -> None:
    rows = [sample(0, 2.0), sample(1, status="over_budget"), sample(2, status="over_budget")]
    assert aggregate(rows, judge(samples=3, min_valid=3)).score == 2.0


def test_a_judgement_whose_samples_were_all_refused_is_over_budget() -> None:
    rows = [sample(0, status="over_budget"), sample(1, status="over_budget")]
    assert aggregate(rows, judge(samples=2)).status == "over_budget"


def test_a_normalized_score_counts_from_zero_to_one() -> None:
    verdict = aggregate([sample(0, 5.5)], judge(normalize=True))
    assert verdict.score == 0.5
    empty = aggregate([sample(0, 1.0, "empty")], judge(normalize=True))
    assert (empty.score, empty.status) == (0.0, "empty")


def verdicts(*statuses: Status, score: float = 5.0) -> dict[int, Verdict]:
    return {
        i: Verdict(score if status is Status.SCORED else None, status, None)
        for i, status in enumerate(statuses)
    }


S, T, G = Status.SCORED, Status.TIMEOUT, Status.GATED


def test_a_group_in_several_chunks_is_not_whole() -> None:
    groups = chunk_groups(["a", "a", "b", None, None], 10, {"b"})
    assert sorted(groups.whole) == [[10, 11], [13], [14]]
    assert groups.split == {12}


def test_a_group_falls_back_once_one_of_its_judgements_failed() -> None:
    groups = chunk_groups(["a", "a", "b", "b", "c"], 0, set())
    assert groups_to_fall_back(groups, verdicts(S, T, S, G, T)) == [[0, 1], [4]]


def test_a_deadline_or_a_spent_budget_causes_no_fallback() -> None:
    groups = chunk_groups(["a", "b"], 0, set())
    assert groups_to_fall_back(groups, verdicts(Status.EXPIRED, Status.OVER_BUDGET)) == []


def test_the_whole_group_takes_the_fallbacks_verdicts() -> None:
    chosen = with_fallback(verdicts(S, T, S), verdicts(S, S, T, score=9.0), [[0, 1]])
    assert [chosen[i].score for i in range(3)] == [9.0, 9.0, 5.0]


def test_a_fallback_that_fails_as_often_changes_nothing() -> None:
    own = verdicts(S, T)
    assert with_fallback(own, verdicts(T, S, score=9.0), [[0, 1]]) == own


@given(
    own=st.lists(st.sampled_from([S, T, G]), min_size=6, max_size=6),
    other=st.lists(st.sampled_from([S, T, G]), min_size=6, max_size=6),
    group_ids=st.lists(st.sampled_from(["a", "b", None]), min_size=6, max_size=6),
)
def test_no_group_mixes_two_models(
    own: list[Status], other: list[Status], group_ids: list[str | None]
) -> None:
    mine, theirs = verdicts(*own), verdicts(*other, score=9.0)
    groups = chunk_groups(group_ids, 0, set())
    chosen = with_fallback(mine, theirs, groups_to_fall_back(groups, mine))
    for group in groups.whole:
        assert {chosen[i] is mine[i] for i in group} in ({True}, {False})
