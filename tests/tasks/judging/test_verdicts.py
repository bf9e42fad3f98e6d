"""A chunk's part is made of the record only where the record holds it whole."""

from typing import Any, cast

from oyer.config.reward import JudgeConfig
from oyer.models.rows import StoredJudgement
from oyer.tasks.judging.verdicts import fine_rows, recorded_part


def judge(name: str = "q", **fields: Any) -> JudgeConfig:
    return JudgeConfig.model_validate({"name": name, "endpoint": "e", "model": "m", **fields})


def row(index: int, score: float | None, status: str = "scored", **fields: Any) -> StoredJudgement:
    place = {"rollout_index": index, "judge": "q", "sample": 0}
    return cast(StoredJudgement, {**place, "score": score, "status": status, **fields})


def test_judgements_on_record_become_a_part_in_order() -> None:
    rows = fine_rows([row(5, 3.0), row(4, None, "gated"), row(6, 8.0)])
    part = recorded_part(2, range(4, 7), [judge()], rows)
    assert part is not None
    assert (part.chunk, part.scores) == (2, {"q": [None, 3.0, 8.0]})
    assert part.statuses == {"q": ["gated", "scored", "scored"]}


def test_samples_are_aggregated() -> None:
    rows = fine_rows([row(0, 4.0), row(0, 8.0, sample=1)])
    part = recorded_part(0, range(1), [judge(samples=2)], rows)
    assert part is not None
    assert part.scores == {"q": [6.0]}


def test_a_judgement_that_is_missing_or_failed_leaves_the_chunk_open() -> None:
    assert recorded_part(0, range(2), [judge()], fine_rows([row(0, 4.0)])) is None
    failed = fine_rows([row(0, 4.0), row(1, None, "timeout")])
    assert recorded_part(0, range(2), [judge()], failed) is None
    one_of_two = fine_rows([row(0, 4.0)])
    assert recorded_part(0, range(1), [judge(), judge("other")], one_of_two) is None


def test_without_judges_the_record_does_not_tell_whether_a_chunk_ended() -> None:
    assert recorded_part(0, range(2), [], {}) is None
