"""Complete rows of the record, with the given columns replaced."""

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any, cast

from oyer.models.rows import (
    AttemptRow,
    BatchRow,
    JudgementRow,
    RewardRow,
    RolloutRow,
    SubmissionRow,
)

START = datetime(2026, 3, 31, 23, 59, 58, 123456, tzinfo=UTC)
"""When the first batch of a test is submitted."""


def make_batch(**changed: Any) -> BatchRow:
    row: dict[str, Any] = {
        "id": str(uuid.uuid4()),
        "run": "tool-n1",
        "step": 12,
        "size": 4,
        "plan": {"judges": [{"name": "quality"}], "length": [], "reward": {"gate": "none"}},
        "oyer_version": "0.1.0",
        "submitted_at": START,
    }
    return cast(BatchRow, row | changed)


def make_submission(batch_id: str, number: int = 0, why: str = "submit") -> SubmissionRow:
    sent_at = START + timedelta(seconds=number)
    return {
        "batch_id": batch_id,
        "sent_at": sent_at,
        "host": "trainer:7",
        "why": why,
        "seen_at": sent_at + timedelta(milliseconds=5),
        "worker": "judge@host",
    }


def make_rollout(index: int = 0, **changed: Any) -> RolloutRow:
    row: dict[str, Any] = {
        "rollout_index": index,
        "prompt": f"What is 6 times {index // 2}?",
        "response": f"It is {6 * index}.",
        "reference": "42",
        "group_id": f"group-{index // 2}",
        "base_score": 1.0,
        "correct": True,
        "truncated": False,
        "response_tokens": 7 + index,
        "metadata": {"source": "gsm8k"},
    }
    return cast(RolloutRow, row | changed)


def make_judgement(index: int = 0, **changed: Any) -> JudgementRow:
    row: dict[str, Any] = {
        "rollout_index": index,
        "judge": "quality",
        "sample": 0,
        "status": "scored",
        "attempts": 1,
        "source": "called",
        "score": 7.0,
        "reply": "Sound. Final score: 7",
        "parsed_layer": "final_label",
        "parsed_span": "Final score: 7",
        "parser_version": 1,
        "model": "judge-7b",
        "endpoint": "local",
        "rubric_hash": "ab" * 32,
        "request_hash": f"{index:064x}",
        "prompt_tokens": 300,
        "completion_tokens": 40,
        "cost_usd": 0.0004,
        "latency_ms": 512.5,
        "worker": "judge@host",
        "error": None,
        "started_at": START + timedelta(seconds=1),
        "finished_at": START + timedelta(seconds=2),
    }
    return cast(JudgementRow, row | changed)


def make_attempt(index: int = 0, **changed: Any) -> AttemptRow:
    row: dict[str, Any] = {
        "rollout_index": index,
        "judge": "quality",
        "sample": 0,
        "id": str(uuid.uuid4()),
        "number": 1,
        "started_at": START + timedelta(seconds=1),
        "url_index": 0,
        "http_status": 200,
        "error_class": None,
        "latency_ms": 500.0,
        "prompt_tokens": 300,
        "completion_tokens": 40,
        "cost_usd": 0.0004,
        "retry_wait_s": None,
    }
    return cast(AttemptRow, row | changed)


def make_reward(index: int = 0, **changed: Any) -> RewardRow:
    row: dict[str, Any] = {
        "rollout_index": index,
        "status": "scored",
        "trainable": True,
        "terms": {"base_score": 1.0, "judge": 0.7, "length_penalty": -0.2},
        "created_at": START + timedelta(seconds=3),
        "reward": 1.5,
        "unshaped_reward": 1.7,
        "judge_score": 7.0,
        "group_size": 2,
        "length_status": None,
    }
    return cast(RewardRow, row | changed)
