"""What is written stays, however often, in whatever order and by however many it is written."""

from datetime import timedelta
from random import Random
from typing import Any

import pytest
from sqlalchemy import Engine, func, select, text

from oyer.models import Attempt, Batch, Judgement, Rollout, Rubric, Run, Text
from oyer.models.queries import batch as batch_state
from oyer.models.queries import judgements_of, rewards_of, submissions_of, usage_of
from oyer.models.rows import BatchKey, BatchRow, SubmissionRow, Usage
from oyer.models.step_total import StepTotal
from oyer.models.writes import (
    add_to_totals,
    ensure_run_and_batch,
    finish_batch,
    record_chunk,
    record_rewards,
    record_rubrics,
    record_submissions,
    reopen_batch,
)
from tests.support.record_rows import (
    START,
    make_attempt,
    make_batch,
    make_judgement,
    make_reward,
    make_rollout,
    make_submission,
)

NO_USAGE: Usage = {"calls": 0, "prompt_tokens": 0, "completion_tokens": 0, "cost_usd": 0.0}


def count_rows(engine: Engine, model: Any) -> int:
    with engine.connect() as conn:
        return conn.scalar(select(func.count()).select_from(model)) or 0


def new_batch(engine: Engine, **changed: Any) -> BatchKey:
    with engine.begin() as conn:
        return ensure_run_and_batch(conn, make_batch(**changed))


def test_a_batch_keeps_the_submission_time_it_was_first_recorded_with(engine: Engine) -> None:
    row = make_batch()
    later = BatchRow(**{**row, "submitted_at": START + timedelta(hours=1)})
    with engine.begin() as conn:
        first = ensure_run_and_batch(conn, row)
        assert ensure_run_and_batch(conn, later) == first == BatchKey(START, row["id"])


def test_a_resubmission_is_counted_once_and_an_older_one_changes_nothing(engine: Engine) -> None:
    key = new_batch(engine)
    first, lost, third = (
        make_submission(key.batch_id, number, why)
        for number, why in enumerate(["submit", "is no longer in Redis", "oyer batches resume"])
    )
    unseen: SubmissionRow = {**lost, "seen_at": None, "worker": None}
    with engine.begin() as conn:
        for rows in ([first], [first, unseen, third], [first, lost], [third]):
            record_submissions(conn, key.batch_id, rows)
        state = batch_state(conn, key.batch_id)
        recorded = submissions_of(conn, key.batch_id)
    assert recorded == [first, unseen, third]
    assert state is not None
    assert state["submissions"] == 3


def test_a_batch_that_was_given_up_can_be_reopened_and_a_cancelled_one_not(engine: Engine) -> None:
    for status, after in (("failed", "submitted"), ("cancelled", "cancelled")):
        key = new_batch(engine)
        with engine.begin() as conn:
            assert finish_batch(
                conn,
                key.batch_id,
                status=status,
                finished_at=START,
                counts={},
                usage={},
                ending="stood still",
            )
            state = batch_state(conn, key.batch_id)
            assert state is not None
            assert (state["status"], state["ending"]) == (status, "stood still")
            reopen_batch(conn, key.batch_id)
            state = batch_state(conn, key.batch_id)
            assert state is not None
            assert state["status"] == after
            assert (state["finished_at"] is None) == (after == "submitted")


def test_a_reopened_batch_leaves_the_totals(engine: Engine) -> None:
    key = new_batch(engine)
    used: Usage = {"calls": 3, "prompt_tokens": 9, "completion_tokens": 3, "cost_usd": 0.5}
    with engine.begin() as conn:
        add_to_totals(conn, key.batch_id, {"cost_usd": (3, 0.5, 0.0)})
        finish_batch(conn, key.batch_id, status="failed", finished_at=START, counts={}, usage=used)
        for _ in range(2):
            reopen_batch(conn, key.batch_id)
        totals = conn.execute(select(StepTotal.n, StepTotal.total)).one()
    assert (totals.n, totals.total) == (0, 0.0)


def test_batches_of_one_run_share_its_row(engine: Engine) -> None:
    new_batch(engine)
    new_batch(engine)
    new_batch(engine, run="other")
    assert (count_rows(engine, Run), count_rows(engine, Batch)) == (2, 3)


def test_a_chunk_recorded_twice_is_on_record_once(engine: Engine) -> None:
    key = new_batch(engine)
    rollouts = [make_rollout(index) for index in range(4)]
    judgements = [make_judgement(index, status="timeout", score=None) for index in range(4)]
    attempts = [make_attempt(index) for index in range(4)]
    for _ in range(2):
        with engine.begin() as conn:
            kept = record_chunk(
                conn, key, rollouts=rollouts, judgements=judgements, attempts=attempts
            )
            assert kept == []
    counted = [count_rows(engine, model) for model in (Rollout, Judgement, Attempt)]
    assert counted == [4, 4, 4]
    assert count_rows(engine, Text) == 2 + 4 + 1  # prompts of two groups, responses, reference


def test_texts_are_found_by_the_hash_of_what_is_stored(engine: Engine) -> None:
    key = new_batch(engine)
    messages = [{"role": "user", "content": "nul \0 and half \ud83d"}]
    with engine.begin() as conn:
        record_chunk(conn, key, rollouts=[make_rollout(prompt=messages, group_id=7)])
        prompt = select(Text.body).join(Rollout, Rollout.prompt_hash == Text.hash)
        assert conn.scalars(prompt).all() == [
            '[{"role":"user","content":"nul \ufffd and half \ufffd"}]'
        ]
        assert conn.scalars(select(Rollout.group_id)).one() == "7"


def test_a_group_id_may_be_as_long_as_a_prompt(engine: Engine) -> None:
    key = new_batch(engine)
    noise = Random(0).randbytes(20_000).hex()
    with engine.begin() as conn:
        record_chunk(conn, key, rollouts=[make_rollout(group_id=noise)])
        found = select(Rollout.rollout_index).where(Rollout.group_id == noise)
        assert conn.scalars(found).all() == [0]


def test_a_judgement_without_a_score_is_replaced(engine: Engine) -> None:
    key = new_batch(engine)
    with engine.begin() as conn:
        failed = make_judgement(status="timeout", score=None, reply=None, error="late")
        record_chunk(conn, key, judgements=[failed])
        assert record_chunk(conn, key, judgements=[make_judgement(worker="second")]) == []
        (stored,) = judgements_of(conn, key.batch_id)
    names = ("reasoning", "parameters_hash", "messages_hash", "view_truncated", "turn")
    unnamed = dict.fromkeys(names)
    assert stored == {**make_judgement(worker="second"), **key._asdict(), **unnamed}


@pytest.mark.parametrize("late", [{"score": 1.0}, {"status": "timeout", "score": None}])
def test_a_scored_judgement_is_never_overwritten_and_the_late_one_is_reported(
    engine: Engine, late: dict[str, Any]
) -> None:
    key = new_batch(engine)
    first = [make_judgement(0), make_judgement(1, status="timeout", score=None)]
    again = [make_judgement(0, **late), make_judgement(1, score=3.0)]
    with engine.begin() as conn:
        record_chunk(conn, key, judgements=[*first, make_judgement(1, judge="other")])
        kept = record_chunk(conn, key, judgements=again)
    assert [(row["judge"], row["score"]) for row in kept] == [("quality", 7.0), ("quality", 3.0)]


def test_samples_and_judges_are_rows_of_their_own(engine: Engine) -> None:
    key = new_batch(engine)
    panel = [make_judgement(judge=judge, sample=k) for judge in "ab" for k in range(3)]
    with engine.begin() as conn:
        assert record_chunk(conn, key, judgements=panel) == []
        assert len(judgements_of(conn, key.batch_id)) == 6


def test_the_first_rewards_win(engine: Engine) -> None:
    key = new_batch(engine)
    with engine.begin() as conn:
        assert record_rewards(conn, key, [make_reward(1), make_reward(0)])
        assert not record_rewards(conn, key, [make_reward(0, reward=9.0), make_reward(1)])
        stored = rewards_of(conn, key.batch_id)
    assert stored == [{**make_reward(index), **key._asdict()} for index in range(2)]


def test_a_batch_ends_once(engine: Engine) -> None:
    key = new_batch(engine)
    with engine.begin() as conn:
        ends = [
            finish_batch(
                conn,
                key.batch_id,
                status=status,
                finished_at=START,
                counts={"scored": 4},
                usage=NO_USAGE,
            )
            for status in ("cancelled", "finished")
        ]
        state = batch_state(conn, key.batch_id)
    assert ends == [True, False]
    assert state is not None
    assert (state["status"], state["counts"]) == ("cancelled", {"scored": 4})


def test_attempts_recorded_after_the_end_count_in_the_usage_and_the_totals(engine: Engine) -> None:
    key = new_batch(engine)
    with engine.begin() as conn:
        record_chunk(conn, key, judgements=[make_judgement(0)], attempts=[make_attempt(0)])
        used = usage_of(conn, key.batch_id)
        add_to_totals(conn, key.batch_id, {"cost_usd": (used["calls"], used["cost_usd"], 0.0)})
        finish_batch(
            conn, key.batch_id, status="finished", finished_at=START, counts={}, usage=used
        )
    late = [make_attempt(0), make_attempt(1)]
    for _ in range(2):  # the second time, both are on record
        with engine.begin() as conn:
            record_chunk(conn, key, judgements=[make_judgement(1)], attempts=late)
            state = batch_state(conn, key.batch_id)
            totals = conn.execute(select(StepTotal.n, StepTotal.total)).one()
            now = usage_of(conn, key.batch_id)
    assert state is not None
    assert (state["usage"], state["counts"]) == (now, {})
    assert now["calls"] == used["calls"] + 2
    assert totals.n == now["calls"]
    assert totals.total == pytest.approx(now["cost_usd"])


def test_a_rubric_is_stored_once(engine: Engine) -> None:
    with engine.begin() as conn:
        for _ in range(2):
            record_rubrics(conn, [{"hash": "ab" * 32, "name": "r", "text": "Score {response}."}])
    assert count_rows(engine, Rubric) == 1


def test_a_row_that_does_not_fit_its_table_is_refused(engine: Engine) -> None:
    key = new_batch(engine)
    unknown: Any = [make_reward(), {**make_reward(1), "rewrad": 1.0}]
    lacking: Any = [{"rollout_index": 0}]
    with engine.begin() as conn:
        with pytest.raises(ValueError, match=r"rewards: missing or unknown: \['rewrad'\]"):
            record_rewards(conn, key, unknown)
        with pytest.raises(ValueError, match="'status', 'terms', 'trainable'"):
            record_rewards(conn, key, lacking)


def test_the_view_reads_a_judgement_with_its_words_and_its_reward(engine: Engine) -> None:
    key = new_batch(engine)
    with engine.begin() as conn:
        record_chunk(
            conn,
            key,
            rollouts=[make_rollout(1)],
            judgements=[make_judgement(1), make_judgement(2, status="gated", score=None)],
        )
        record_rewards(conn, key, [make_reward(1)])
        query = text("SELECT * FROM judge_history ORDER BY rollout_index")
        judged, gated = conn.execute(query).mappings()
    expected = {
        "run": "tool-n1",
        "step": 12,
        "batch_id": key.batch_id,
        "group_id": "group-0",
        "prompt": "What is 6 times 0?",
        "response": "It is 6.",
        "reference": "42",
        "base_score": 1.0,
        "judge": "quality",
        "sample": 0,
        "model": "judge-7b",
        "endpoint": "local",
        "status": "scored",
        "score": 7.0,
        "reply": "Sound. Final score: 7",
        "reward": 1.5,
        "prompt_tokens": 300,
        "completion_tokens": 40,
        "cost_usd": 0.0004,
        "latency_ms": 512.5,
        "attempts": 1,
        "source": "called",
        "worker": "judge@host",
    }
    assert {name: judged[name] for name in expected} == expected
    assert "length_penalty" in judged["terms"]
    assert (gated["rollout_index"], gated["score"], gated["reward"]) == (2, None, None)
