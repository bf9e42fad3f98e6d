"""Judging through a `litellm` proxy: its replies, its errors, its rate limits and its key."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from oyer.manager import RewardBatch, RewardManager
from oyer.models import Base
from tests.integration.test_main_job import read
from tests.real_servers.conftest import COOL_DOWN_S, MASTER_KEY
from tests.support.rollouts import rollouts_of

JudgedBy = Callable[..., RewardManager]


def attempts_of(manager: RewardManager, batch: RewardBatch) -> list[dict[str, Any]]:
    query = "SELECT * FROM attempts WHERE batch_id = :id ORDER BY rollout_index, number"
    return read(manager, query, id=batch.id)


def test_a_reply_is_scored_and_its_usage_is_on_record(manager: RewardManager) -> None:
    batch = manager.submit(rollouts_of("good", 8), run="litellm").result(timeout_s=120)
    assert batch.judge_scores.tolist() == [7.0] * 8
    rows = attempts_of(manager, batch)
    assert [row["http_status"] for row in rows] == [200] * 8
    assert all(row["prompt_tokens"] > 0 and row["completion_tokens"] > 0 for row in rows)
    prompt_tokens, completion_tokens = (
        sum(row[f"{kind}_tokens"] for row in rows) for kind in ("prompt", "completion")
    )
    assert batch.usage.tokens == prompt_tokens + completion_tokens
    assert batch.usage.cost_usd == pytest.approx(
        (prompt_tokens * 1000 + completion_tokens * 2000) / 1e6
    )


def test_json_can_be_asked_for(judged_by: JudgedBy) -> None:
    manager = judged_by(structured=True)
    batch = manager.submit(rollouts_of("structured", 2)).result(timeout_s=120)
    assert batch.judge_scores.tolist() == [7.0] * 2


def test_a_reply_without_a_score_is_asked_for_it_once(judged_by: JudgedBy) -> None:
    manager = judged_by(model="chatty", reasks=1)
    batch = manager.submit(rollouts_of("chatty", 2)).result(timeout_s=120)
    assert batch.statuses == ["unparseable"] * 2
    assert batch.usage.calls == 4


@pytest.mark.parametrize(
    ("model", "status", "http_statuses"),
    [
        ("overflow", "context_overflow", [400]),
        ("filtered", "refused", [400]),
        ("no such model", "rejected", [400]),
        ("slow", "timeout", [408] * 4),
        # The same words three times are an answer.
        ("broken", "unavailable", [500] * 3),
        ("unreachable", "unavailable", [500] * 3),
    ],
)
def test_an_error_gets_its_status_and_is_tried_again_where_that_may_help(
    judged_by: JudgedBy, model: str, status: str, http_statuses: list[int]
) -> None:
    manager = judged_by(model=model)
    batch = manager.submit(rollouts_of(model, 1)).result(timeout_s=120)
    assert batch.statuses == [status]
    assert not batch.mask.any()
    assert [row["http_status"] for row in attempts_of(manager, batch)] == http_statuses


def test_the_proxy_is_waited_for_as_long_as_it_asks(judged_by: JudgedBy) -> None:
    manager = judged_by(model="limited")
    batch = manager.submit(rollouts_of("limited", 1)).result(timeout_s=120)
    assert batch.statuses == ["rate_limited"]
    rows = attempts_of(manager, batch)
    assert [row["http_status"] for row in rows] == [429] * 4
    # The first 429 is the model's own; the proxy sends the later ones, with a Retry-After.
    assert rows[0]["retry_wait_s"] <= 0.5
    assert rows[1]["retry_wait_s"] >= COOL_DOWN_S
    assert rows[3]["retry_wait_s"] is None


def test_a_wait_longer_than_the_batch_has_left_is_not_waited_for(judged_by: JudgedBy) -> None:
    manager = judged_by(model="resting", endpoint="proxy", deadline_s=60)
    batch = manager.submit(rollouts_of("resting", 1)).result(timeout_s=120)
    assert batch.statuses == ["rate_limited"]
    rows = attempts_of(manager, batch)
    assert [row["http_status"] for row in rows] == [429] * 2
    assert rows[1]["retry_wait_s"] is None


def test_a_wrong_key_is_rejected_and_appears_nowhere(
    manager: RewardManager, judged_by: JudgedBy
) -> None:
    locked = judged_by(endpoint="locked")
    batch = locked.submit(rollouts_of("locked", 2)).result(timeout_s=120)
    assert batch.statuses == ["rejected"] * 2
    assert batch.usage.calls == 2
    folder = Path(manager.config.store.url.removeprefix("sqlite:///")).parent
    kept = [log.read_text(errors="replace") for log in folder.glob("*.log")]
    for table in Base.metadata.tables:
        kept += [str(row) for row in read(manager, f"SELECT * FROM {table}")]
    assert any("locked" in text for text in kept)
    for key in (MASTER_KEY, MASTER_KEY[::-1]):
        assert not [text for text in kept if key in text]
