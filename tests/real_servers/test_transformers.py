"""Judging with `transformers serve` and a random model, whose replies hold no score."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from oyer.manager import RewardManager
from tests.integration.test_main_job import read
from tests.support.rollouts import rollouts_of

JudgedBy = Callable[..., RewardManager]


def test_gibberish_is_never_a_score(judged_by: JudgedBy, tiny_model: Path) -> None:
    manager = judged_by(endpoint="tiny", model=str(tiny_model), temperature=1.0, max_tokens=400)
    batch = manager.submit(rollouts_of("gibberish", 8), run="tiny").result(timeout_s=240)
    assert set(batch.statuses) <= {"unparseable", "truncated"}
    assert "unparseable" in batch.statuses
    assert np.isnan(batch.judge_scores).all()
    assert np.isnan(batch.rewards).all()
    rows = read(manager, "SELECT * FROM judgements WHERE batch_id = :id", id=batch.id)
    assert len(rows) == 8
    assert all(row["reply"] and row["score"] is None for row in rows)
    attempts = read(manager, "SELECT * FROM attempts WHERE batch_id = :id", id=batch.id)
    assert [row["http_status"] for row in attempts] == [200] * 8
    assert all(row["prompt_tokens"] > 0 and row["completion_tokens"] > 0 for row in attempts)


def test_a_truncated_reply_has_no_score(judged_by: JudgedBy, tiny_model: Path) -> None:
    # Greedy, so that the model goes round in circles and never ends by itself.
    manager = judged_by(endpoint="tiny", model=str(tiny_model), temperature=0.0, max_tokens=20)
    batch = manager.submit(rollouts_of("cut", 4), run="tiny").result(timeout_s=120)
    assert batch.statuses == ["truncated"] * 4
    assert not batch.mask.any()


@pytest.mark.parametrize(
    ("changes", "http_status"),
    [({"extra_body": {"no_such_field": 1}}, 422), ({"model": "another/model"}, 400)],
)
def test_what_the_server_does_not_take_is_rejected_at_once(
    judged_by: JudgedBy, tiny_model: Path, changes: dict[str, object], http_status: int
) -> None:
    manager = judged_by(**{"endpoint": "tiny", "model": str(tiny_model), **changes})
    batch = manager.submit(rollouts_of(f"refused {http_status}", 1)).result(timeout_s=120)
    assert batch.statuses == ["rejected"]
    attempts = read(manager, "SELECT * FROM attempts WHERE batch_id = :id", id=batch.id)
    assert [row["http_status"] for row in attempts] == [http_status]
