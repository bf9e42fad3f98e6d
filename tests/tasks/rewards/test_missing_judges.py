"""Missing scores are filled in from the mean of the other judges if enough of them scored."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oyer.config.reward import JudgeConfig
from oyer.tasks.rewards.missing_judges import Verdicts, completed

NAN = float("nan")


def judge(name: str, **fields: object) -> JudgeConfig:
    return JudgeConfig.model_validate({"name": name, "endpoint": "e", "model": "m", **fields})


def verdicts(*scores: float) -> Verdicts:
    return Verdicts(
        np.array(scores), ["timeout" if np.isnan(score) else "scored" for score in scores]
    )


def test_a_missing_score_is_the_others_mean_mapped_to_its_own_scale() -> None:
    judges = [
        judge("a", scale=(0, 10), weight=1),
        judge("b", scale=(0, 100), weight=3),
        judge("c", scale=(-1, 1), weight=1),
    ]
    found = completed(
        judges, {"a": verdicts(10.0), "b": verdicts(0.0), "c": verdicts(NAN)}, min_valid=2
    )
    # The mean (1 · 1 + 3 · 0) / 4 = 0.25, mapped to -1..1.
    assert found["c"].scores.tolist() == [-0.5]
    assert [found[name].statuses for name in "abc"] == [["scored"]] * 3
    assert found["a"].scores.tolist() == [10.0]


@pytest.mark.parametrize(
    ("quality", "flaws"), [(10.0, 0.0), (1.0, 100.0), (5.5, 50.0), (7.75, 25.0)]
)
def test_a_judge_of_faults_is_filled_in_from_the_top_of_its_scale(
    quality: float, flaws: float
) -> None:
    judges = [judge("quality"), judge("flaws", scale=(0, 100), weight=-0.01)]
    for scores in ({"quality": NAN, "flaws": flaws}, {"quality": quality, "flaws": NAN}):
        given_ = {name: verdicts(score) for name, score in scores.items()}
        found = completed(judges, given_, min_valid=1)
        assert [found[name].scores[0] for name in scores] == pytest.approx([quality, flaws])


def test_nothing_is_filled_in_if_too_few_judges_scored() -> None:
    judges = [judge("a"), judge("b"), judge("c")]
    found = completed(
        judges, {"a": verdicts(7.0), "b": verdicts(NAN), "c": verdicts(NAN)}, min_valid=2
    )
    assert np.isnan(found["b"].scores).all()
    assert found["b"].statuses == ["timeout"]


def test_every_judge_is_required_without_min_valid_judges() -> None:
    found = completed([judge("a"), judge("b")], {"a": verdicts(7.0), "b": verdicts(NAN)}, None)
    assert found["b"].statuses == ["timeout"]


def test_a_judge_of_weight_0_does_not_count() -> None:
    judges = [judge("a"), judge("b"), judge("record", weight=0)]
    gap, seven = verdicts(NAN), verdicts(7.0)
    alone = completed(judges, {"a": gap, "b": gap, "record": seven}, 1)
    assert alone["a"].statuses == ["timeout"]
    missing = completed(judges, {"a": seven, "b": seven, "record": gap}, 1)
    assert missing["record"].statuses == ["timeout"]


def test_gated_rollouts_stay_gated() -> None:
    gated = Verdicts(np.array([NAN]), ["gated"])
    found = completed([judge("a"), judge("b")], {"a": gated, "b": gated}, 1)
    assert found["a"].statuses == ["gated"]
    assert np.isnan(found["a"].scores).all()


def test_an_answer_that_never_came_keeps_its_score() -> None:
    # E.g. under `view: no_thinking`, while the other judge is shown the thinking.
    judges = [judge("answer"), judge("thinking"), judge("style")]
    given_ = {
        "answer": Verdicts(np.array([1.0]), ["empty"]),
        "thinking": verdicts(10.0),
        "style": verdicts(NAN),
    }
    found = completed(judges, given_, min_valid=1)
    assert [found[j.name].scores.tolist() for j in judges] == [[1.0], [10.0], [5.5]]
    assert [found[j.name].statuses for j in judges] == [["empty"], ["scored"], ["scored"]]


def test_a_normalized_judge_counts_from_zero_to_one() -> None:
    judges = [judge("a", scale=(1, 5), normalize=True), judge("b", scale=(1, 10))]
    found = completed(judges, {"a": verdicts(0.5), "b": verdicts(NAN)}, 1)
    assert found["b"].scores.tolist() == [5.5]


@given(
    scores=st.lists(st.none() | st.floats(1, 10), min_size=3, max_size=3),
    weights=st.lists(st.sampled_from([0.0, 0.1, 2.0]), min_size=3, max_size=3),
    min_valid=st.integers(1, 3),
)
def test_a_filled_score_lies_between_its_sources(
    scores: list[float | None], weights: list[float], min_valid: int
) -> None:
    judges = [judge(name, weight=weight) for name, weight in zip("abc", weights, strict=True)]
    given_ = {
        name: verdicts(NAN if score is None else score)
        for name, score in zip("abc", scores, strict=True)
    }
    valid = [score for score in scores if score is not None]
    for name, verdict in completed(judges, given_, min_valid).items():
        if given_[name].statuses == verdict.statuses:
            np.testing.assert_array_equal(verdict.scores, given_[name].scores)
        else:
            assert len(valid) >= min_valid
            assert min(valid) - 1e-9 <= verdict.scores[0] <= max(valid) + 1e-9


@pytest.mark.parametrize("min_valid", [1, 2])
def test_rows_are_filled_one_by_one(min_valid: int) -> None:
    found = completed(
        [judge("a"), judge("b")],
        {"a": verdicts(4.0, NAN, NAN), "b": verdicts(NAN, 8.0, NAN)},
        min_valid,
    )
    expected = [4.0, 8.0, NAN] if min_valid == 1 else [4.0, NAN, NAN]
    np.testing.assert_array_equal(found["a"].scores, expected)
