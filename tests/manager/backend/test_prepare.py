"""How rollouts are packed into a manifest, columns and chunks."""

from typing import Any

import numpy as np
import pytest

from oyer.config.plan import read_plan
from oyer.config.reward import RewardConfig
from oyer.manager.backend.prepare import PreparedBatch, prepare
from oyer.protocol.rollout import Rollout, decode_rollouts

JUDGE = {"name": "q", "endpoint": "e", "model": "m"}


def prepared(rollouts: list[Rollout], **config: Any) -> PreparedBatch:
    keys = {"judges": [JUDGE], "length": {"method": "median_band"}, **config}
    return prepare(rollouts, RewardConfig.model_validate(keys), run="r", step=3)


def rollouts(n: int, **fields: Any) -> list[Rollout]:
    return [Rollout(prompt=f"p{i}", response=f"r{i}", group_id=i // 4, **fields) for i in range(n)]


def unpacked(submission: PreparedBatch) -> list[Rollout]:
    return [rollout for blob in submission.chunks for rollout in decode_rollouts(blob)]


def test_chunks_hold_every_rollout_in_order() -> None:
    submission = prepared(rollouts(50))
    manifest = submission.manifest
    assert [r.response for r in unpacked(submission)] == [f"r{i}" for i in range(50)]
    assert manifest.size == 50
    assert [start for start, _ in manifest.chunks] == [
        sum(count for _, count in manifest.chunks[:k]) for k in range(len(manifest.chunks))
    ]
    assert len(submission.chunks) == len(manifest.chunks) > 1


def test_the_manifest_has_the_trainers_settings() -> None:
    submission = prepared(rollouts(4), deadline_s=90, reuse="run", tokenizer="gpt2")
    manifest = submission.manifest
    assert (manifest.run, manifest.step, manifest.submission) == ("r", 3, 1)
    assert manifest.deadline == manifest.submitted_at + 90
    plan = read_plan(manifest)
    assert [judge.name for judge in plan.judges] == ["q"]
    assert [item.method for item in plan.length] == ["median_band"]
    assert (plan.reuse, plan.tokenizer) == ("run", "gpt2")


def test_every_batch_has_its_own_id() -> None:
    assert prepared(rollouts(1)).manifest.batch_id != prepared(rollouts(1)).manifest.batch_id


def test_a_batch_has_no_worker_settings() -> None:
    endpoints = {"e": {"base_url": "http://secret-host/v1", "api_key_env": "SECRET_NAME"}}
    submission = prepared(
        rollouts(1), endpoints=endpoints, store={"url": "postgresql://user:secret@h/db"}
    )
    assert "secret" not in repr(submission.manifest).lower()


def test_numpy_scalars_become_plain_values() -> None:
    numbers: dict[str, Any] = {
        "group_id": np.int64(7),
        "base_score": np.float32(0.5),
        "response_tokens": np.int32(9),
        "correct": np.bool_(True),
        "truncated": np.bool_(True),
    }
    rollout = Rollout(prompt="p", response="r", **numbers)
    columns = prepared([rollout]).columns
    assert columns.group_ids == ["7"]
    assert columns.base_score == [0.5]
    assert columns.response_tokens == [9]
    assert columns.correct == [True]
    assert columns.truncated == [True]
    assert [type(v) for v in (columns.correct[0], columns.truncated[0])] == [bool, bool]


@pytest.mark.parametrize(
    ("correct", "base_score", "expected"),
    [(True, None, 1.0), (False, None, 0.0), (True, 0.25, 0.25), (None, None, None)],
)
def test_a_missing_base_score_is_derived_from_correct(
    correct: bool | None, base_score: float | None, expected: float | None
) -> None:
    [rollout] = rollouts(1, correct=correct, base_score=base_score)
    submission = prepared([rollout])
    assert submission.columns.base_score == [expected]
    assert unpacked(submission)[0].base_score == expected


@pytest.mark.parametrize("ids", [[5, 6, 7], (5, 6, 7), np.array([5, 6, 7])])
def test_a_missing_length_is_the_number_of_token_ids(ids: Any) -> None:
    assert prepared(rollouts(1, token_ids=ids)).columns.response_tokens == [3]
    assert prepared(rollouts(1, token_ids=ids, response_tokens=2)).columns.response_tokens == [2]


def test_chunk_size_depends_on_the_calls_that_the_judges_endpoints_allow() -> None:
    endpoints = {
        "e": {"base_url": "http://h", "max_in_flight": 512},
        "unused": {"base_url": "http://h", "max_in_flight": 100_000},
    }
    wide = prepared(rollouts(64), endpoints=endpoints).manifest.chunks
    assert wide == [(0, 32), (32, 32)]
    sampled = prepared(rollouts(64), endpoints=endpoints, judges=[{**JUDGE, "samples": 4}])
    assert [count for _, count in sampled.manifest.chunks] == [8] * 8
    assert sampled.verdicts == 64


def test_there_is_one_verdict_per_rollout_and_judge() -> None:
    judges = [JUDGE, {**JUDGE, "name": "second"}]
    assert prepared(rollouts(6), judges=judges).verdicts == 12
    assert prepared(rollouts(6), judges=[]).verdicts == 0


def test_a_resubmission_changes_only_the_submission_count() -> None:
    first = prepared(rollouts(4))
    second = first.resubmission("failed").resubmission("is gone")
    assert second.manifest.submission == 3
    assert second.chunks is first.chunks
    same = ("batch_id", "submitted_at", "deadline", "plan", "chunks")
    assert all(getattr(second.manifest, n) == getattr(first.manifest, n) for n in same)


def test_a_numpy_step_becomes_a_plain_one() -> None:
    config = RewardConfig.model_validate({"judges": [JUDGE]})
    step: Any = np.int64(5)
    assert type(prepare(rollouts(1), config, run="r", step=step).manifest.step) is int


COUNTED = {"response_tokens": 7}


@pytest.mark.parametrize(
    ("n", "fields", "config"),
    [
        (16, COUNTED, {}),
        (4, {}, {"tokenizer": "gpt2"}),
        (4, COUNTED, {"length": {"method": "repetition"}}),
        (4, COUNTED, {"judges": []}),
    ],
    ids=["several chunks", "tokens to count", "texts to scan", "no judge"],
)
def test_a_batch_with_more_than_a_judge_workers_work_is_a_chord(
    n: int, fields: dict[str, Any], config: dict[str, Any]
) -> None:
    assert not prepared(rollouts(n, **fields), **config).manifest.one_task


def test_a_small_batch_is_one_task_if_its_tokens_are_counted() -> None:
    assert prepared(rollouts(4, **COUNTED)).manifest.one_task
    assert prepared(rollouts(4), length=[]).manifest.one_task
    by_chars = {"method": "median_band", "unit": "chars"}
    assert prepared(rollouts(4), length=by_chars).manifest.one_task
