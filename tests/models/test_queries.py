"""Reads find what was written, and by an index where tables grow."""

import re
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, text

from oyer.models.queries import (
    batch,
    cost_of_run,
    group_ids_of,
    judgements_of,
    latest_groups,
    list_batches,
    rewards_of,
    scored_by_request,
    usage_of,
)
from oyer.models.rows import BatchKey
from oyer.models.writes import ensure_run_and_batch, finish_batch, record_chunk
from tests.support.query_plans import plan_of
from tests.support.record_rows import START, make_attempt, make_batch, make_judgement, make_rollout


def record_batch(conn: Connection, minute: int = 0, **changed: Any) -> BatchKey:
    submitted_at = START + timedelta(minutes=minute)
    return ensure_run_and_batch(conn, make_batch(submitted_at=submitted_at, **changed))


def test_judgements_come_by_index_in_the_order_submitted(engine: Engine) -> None:
    with engine.begin() as conn:
        key, other = record_batch(conn), record_batch(conn)
        record_chunk(conn, key, judgements=[make_judgement(i) for i in (3, 0, 2, 1)])
        record_chunk(conn, other, judgements=[make_judgement(0)])

        def indices(wanted: Any) -> list[int]:
            return [row["rollout_index"] for row in judgements_of(conn, key.batch_id, wanted)]

        assert indices(None) == [0, 1, 2, 3]
        assert indices([3, 0, 9]) == [0, 3]
        assert indices(range(1, 3)) == [1, 2]
        assert indices([]) == []


def test_an_unknown_batch_has_nothing(engine: Engine) -> None:
    with engine.begin() as conn:
        assert batch(conn, "no-such") is None
        assert judgements_of(conn, "no-such") == []
        assert rewards_of(conn, "no-such") == []
        assert usage_of(conn, "no-such")["calls"] == 0


def test_a_request_finds_its_last_scored_judgement(engine: Engine) -> None:
    with engine.begin() as conn:
        earlier, last = record_batch(conn, 1, run="b"), record_batch(conn, 2, run="a")
        failed = record_batch(conn, 3)
        asked: Any = {"request_hash": "f" * 64}
        record_chunk(conn, earlier, judgements=[make_judgement(score=2.0, **asked)])
        record_chunk(conn, last, judgements=[make_judgement(i, score=1.0, **asked) for i in (1, 0)])
        record_chunk(
            conn, failed, judgements=[make_judgement(status="timeout", score=None, **asked)]
        )
        found = scored_by_request(conn, ["f" * 64, "0" * 63 + "e"])
        assert list(found) == ["f" * 64]
        assert (found["f" * 64]["batch_id"], found["f" * 64]["score"]) == (last.batch_id, 1.0)
        assert scored_by_request(conn, ["f" * 64], run="b")["f" * 64]["score"] == 2.0
        assert scored_by_request(conn, ["f" * 64], run="c") == {}


def test_a_run_is_found_by_a_name_that_the_database_cannot_store(engine: Engine) -> None:
    run = "a\0b\ud800"
    with engine.begin() as conn:
        key = record_batch(conn, run=run)
        asked = make_judgement(request_hash="f" * 64)
        record_chunk(conn, key, judgements=[asked], attempts=[make_attempt()])
        assert cost_of_run(conn, run) == pytest.approx(0.0004)
        assert list(scored_by_request(conn, ["f" * 64], run=run)) == ["f" * 64]
        assert latest_groups(conn, [run], [None]) == {}


def test_more_requests_than_one_list_holds_are_found(engine: Engine) -> None:
    with engine.begin() as conn:
        key = record_batch(conn)
        record_chunk(conn, key, judgements=[make_judgement(i) for i in range(0, 2500, 100)])
        found = scored_by_request(conn, (f"{i:064x}" for i in range(2500)))
    assert sorted(row["rollout_index"] for row in found.values()) == list(range(0, 2500, 100))


def test_usage_counts_the_attempts_of_replaced_judgements_too(engine: Engine) -> None:
    with engine.begin() as conn:
        key = record_batch(conn)
        record_chunk(conn, key, attempts=[make_attempt(), make_attempt(cost_usd=None)])
        record_chunk(conn, key, attempts=[make_attempt(prompt_tokens=None)])
        used = usage_of(conn, key.batch_id)
    assert used == {
        "calls": 3,
        "prompt_tokens": 600,
        "completion_tokens": 120,
        "cost_usd": pytest.approx(0.0008),
    }


def test_group_ids_come_in_the_order_submitted(engine: Engine) -> None:
    with engine.begin() as conn:
        key = record_batch(conn)
        groups = ["b", None, "a"]
        rows = [make_rollout(i, group_id=group) for i, group in enumerate(groups)]
        record_chunk(conn, key, rollouts=rows[::-1])
        assert group_ids_of(conn, key.batch_id) == groups


def test_batches_are_listed_newest_first_with_their_judgements_per_status(engine: Engine) -> None:
    with engine.begin() as conn:
        old, new = record_batch(conn, 0), record_batch(conn, 5)
        other = record_batch(conn, 3, run="other", step=None)
        failed = make_judgement(1, status="timeout", score=None)
        record_chunk(conn, new, judgements=[make_judgement(0), failed, make_judgement(2)])
        ended: Any = {"finished_at": START, "counts": {"scored": 4}, "usage": {"calls": 4}}
        finish_batch(conn, old.batch_id, status="finished", **ended)
        listed = list_batches(conn)
        assert [row["id"] for row in listed] == [new.batch_id, other.batch_id, old.batch_id]
        assert [row["counts"] for row in listed] == [{"scored": 2, "timeout": 1}, {}, {"scored": 4}]
        assert [row["id"] for row in list_batches(conn, run="other")] == [other.batch_id]
        assert [row["id"] for row in list_batches(conn, status="finished")] == [old.batch_id]
        assert [row["id"] for row in list_batches(conn, limit=1)] == [new.batch_id]
        assert batch(conn, new.batch_id) == listed[0]
        assert listed[0]["submitted_at"].utcoffset() == timedelta(0)


READS: dict[str, tuple[Any, str]] = {
    "judgements_of": (lambda conn: judgements_of(conn, "b", range(8)), "pk_judgements"),
    "rewards_of": (lambda conn: rewards_of(conn, "b"), "pk_rewards"),
    "usage_of": (lambda conn: usage_of(conn, "b"), "pk_attempts|ix_attempts_batch_id"),
    "scored_by_request": (
        lambda conn: scored_by_request(conn, ["a" * 64]),
        "ix_judgements_request_hash",
    ),
    "list_batches": (lambda conn: list_batches(conn), "ix_batches_submitted_at"),
    "by group": (
        lambda conn: conn.execute(text("SELECT * FROM rollouts WHERE group_id = 'g'")),
        "ix_rollouts_group_id",
    ),
    "by status": (
        lambda conn: conn.execute(text("SELECT * FROM judgements WHERE status = 'timeout'")),
        "ix_judgements_status_submitted_at",
    ),
    "by judge and time": (
        lambda conn: conn.execute(
            text("SELECT * FROM judgements WHERE judge = 'q' AND submitted_at > '2026-01-01'")
        ),
        "ix_judgements_judge_submitted_at",
    ),
}
"""Each read that must not scan a table, and the index it goes by."""


@pytest.mark.parametrize("name", READS)
def test_reads_go_by_an_index(engine: Engine, name: str) -> None:
    read, index = READS[name]
    sqlite = engine.dialect.name == "sqlite"
    plan = plan_of(engine, read, "EXPLAIN QUERY PLAN" if sqlite else "EXPLAIN")
    # SQLite names the index of a primary key after its table.
    wanted = re.sub(r"\bpk_(\w+)", r"sqlite_autoindex_\1_1", index) if sqlite else index
    assert re.search(wanted, plan)
