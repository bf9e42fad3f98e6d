"""The samples of a judgement become one verdict, on the scale that counts."""

import pytest

from oyer.config.reward import JudgeConfig
from oyer.models.rows import JudgementRow
from oyer.tasks.judging.aggregate import aggregate


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


def test_samples_that_the_budget_left_out_are_not_missed() -> None:
    rows = [sample(0, 2.0), sample(1, status="over_budget"), sample(2, status="over_budget")]
    assert aggregate(rows, judge(samples=3, min_valid=3)).score == 2.0


def test_a_judgement_without_any_money_is_over_budget() -> None:
    rows = [sample(0, status="over_budget"), sample(1, status="over_budget")]
    assert aggregate(rows, judge(samples=2)).status == "over_budget"


def test_a_normalized_score_counts_from_zero_to_one() -> None:
    verdict = aggregate([sample(0, 5.5)], judge(normalize=True))
    assert verdict.score == 0.5
    empty = aggregate([sample(0, 1.0, "empty")], judge(normalize=True))
    assert (empty.score, empty.status) == (0.0, "empty")
