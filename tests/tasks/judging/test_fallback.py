"""A fall-back judges a whole group or none of it."""

from hypothesis import given
from hypothesis import strategies as st

from oyer.protocol.status import Status
from oyer.tasks.judging.aggregate import Verdict
from oyer.tasks.judging.fallback import groups_in, groups_in_need, replaced


def verdicts(*statuses: Status, score: float = 5.0) -> dict[int, Verdict]:
    return {
        i: Verdict(score if status is Status.SCORED else None, status, None)
        for i, status in enumerate(statuses)
    }


S, T, G = Status.SCORED, Status.TIMEOUT, Status.GATED


def test_a_group_that_goes_on_in_another_chunk_is_not_whole() -> None:
    groups = groups_in(["a", "a", "b", None, None], 10, {"b"})
    assert sorted(groups.whole) == [[10, 11], [13], [14]]
    assert groups.split == {12}


def test_a_group_is_in_need_once_one_of_its_judgements_failed() -> None:
    groups = groups_in(["a", "a", "b", "b", "c"], 0, set())
    assert groups_in_need(groups, verdicts(S, T, S, G, T)) == [[0, 1], [4]]


def test_a_deadline_or_a_spent_budget_is_not_mended_by_another_model() -> None:
    groups = groups_in(["a", "b"], 0, set())
    assert groups_in_need(groups, verdicts(Status.EXPIRED, Status.OVER_BUDGET)) == []


def test_the_whole_group_takes_the_other_models_verdicts() -> None:
    chosen = replaced(verdicts(S, T, S), verdicts(S, S, T, score=9.0), [[0, 1]])
    assert [chosen[i].score for i in range(3)] == [9.0, 9.0, 5.0]


def test_a_fall_back_that_fails_as_often_changes_nothing() -> None:
    own = verdicts(S, T)
    assert replaced(own, verdicts(T, S, score=9.0), [[0, 1]]) == own


@given(
    own=st.lists(st.sampled_from([S, T, G]), min_size=6, max_size=6),
    other=st.lists(st.sampled_from([S, T, G]), min_size=6, max_size=6),
    group_ids=st.lists(st.sampled_from(["a", "b", None]), min_size=6, max_size=6),
)
def test_no_group_mixes_two_models(
    own: list[Status], other: list[Status], group_ids: list[str | None]
) -> None:
    mine, theirs = verdicts(*own), verdicts(*other, score=9.0)
    groups = groups_in(group_ids, 0, set())
    chosen = replaced(mine, theirs, groups_in_need(groups, mine))
    for group in groups.whole:
        assert {chosen[i] is mine[i] for i in group} in ({True}, {False})
