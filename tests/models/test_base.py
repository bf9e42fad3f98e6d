"""What the column types keep out of the record."""

import json
import math
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine, insert, select, text
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import IntegrityError, StatementError

from oyer import migrations
from oyer.models import Reward, Run, Text
from oyer.models.base import clean_text, dump_json
from oyer.models.engine import open_engine
from oyer.models.writes import ensure_run_and_batch, record_chunk, record_rewards
from tests.support.record_rows import make_batch, make_judgement, make_reward

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


def test_a_time_comes_back_aware_in_utc_whatever_zone_it_was_given_in(engine: Engine) -> None:
    shanghai = datetime(2026, 1, 1, 7, 30, tzinfo=timezone(timedelta(hours=8)))
    with engine.begin() as conn:
        conn.execute(insert(Run).values(name="a", created_at=shanghai))
        stored = conn.scalars(select(Run.created_at)).one()
    assert stored == shanghai
    assert stored.tzinfo is UTC
    assert stored.hour == 23


def test_a_time_without_a_zone_is_refused(engine: Engine) -> None:
    naive = datetime(2026, 1, 1)
    with engine.begin() as conn, pytest.raises(StatementError, match="has no time zone"):
        conn.execute(insert(Run).values(name="a", created_at=naive))


@given(st.lists(st.datetimes(datetime(1970, 1, 1), timezones=st.just(UTC)), min_size=2))
def test_times_in_sqlite_sort_as_text_and_are_read_by_its_date_functions(
    times: list[datetime],
) -> None:
    stored = [Run.created_at.type.process_bind_param(time, sqlite.dialect()) for time in times]
    assert [time for _, time in sorted(zip(stored, times, strict=True))] == sorted(times)
    assert len({len(time) for time in stored}) == 1


def test_sqlite_reads_a_stored_time_as_utc(sqlite_url: str) -> None:
    migrations.upgrade(sqlite_url)
    engine = open_engine(sqlite_url)
    moment = datetime(2026, 1, 31, 12, 0, 0, 250000, tzinfo=UTC)
    with engine.begin() as conn:
        conn.execute(insert(Run).values(name="a", created_at=moment))
        raw = conn.execute(text("SELECT created_at, unixepoch(created_at) FROM runs")).one()
    engine.dispose()
    assert tuple(raw) == ("2026-01-31T12:00:00.250000Z", int(moment.timestamp()))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, np.float32("nan"), None])
def test_a_number_that_is_not_finite_is_null(engine: Engine, value: Any) -> None:
    with engine.begin() as conn:
        key = ensure_run_and_batch(conn, make_batch())
        row = make_reward(reward=value, trainable=False, terms={"judge": value, "base": 1.0})
        record_rewards(conn, key, [row])
        assert conn.execute(select(Reward.reward, Reward.terms)).one() == (
            None,
            {"judge": None, "base": 1.0},
        )


def test_a_numpy_number_is_stored_as_a_number(engine: Engine) -> None:
    with engine.begin() as conn:
        key = ensure_run_and_batch(conn, make_batch())
        record_rewards(conn, key, [make_reward(reward=np.float32(0.5))])
        assert conn.scalar(text("SELECT reward FROM rewards WHERE reward > 0.25")) == 0.5


def test_a_scored_judgement_without_a_score_is_refused(engine: Engine) -> None:
    with engine.begin() as conn:
        key = ensure_run_and_batch(conn, make_batch())
        with pytest.raises(IntegrityError, match="scored_has_score"):
            record_chunk(conn, key, judgements=[make_judgement(score=math.nan)])


def test_a_trainable_row_without_a_reward_is_refused(engine: Engine) -> None:
    with engine.begin() as conn:
        key = ensure_run_and_batch(conn, make_batch())
        with pytest.raises(IntegrityError, match="trainable_has_reward"):
            record_rewards(conn, key, [make_reward(reward=math.nan)])


@pytest.mark.parametrize("body", ["plain", "中文 🙂", "nul \0 in it", "half \ud83d a pair"])
def test_any_text_is_stored_as_it_is_cleaned(engine: Engine, body: str) -> None:
    with engine.begin() as conn:
        conn.execute(insert(Text).values(hash="a" * 64, body=body))
        assert conn.scalars(select(Text.body)).one() == clean_text(body)


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0")))
def test_text_that_can_be_stored_is_not_changed(body: str) -> None:
    assert clean_text(body) == body


@given(st.text(st.characters(exclude_categories=[])))
def test_cleaned_text_can_be_encoded_and_holds_no_nul(body: str) -> None:
    cleaned = clean_text(body)
    assert "\0" not in cleaned
    assert cleaned.encode().decode() == cleaned


@given(JSON_VALUES)
def test_dumped_json_is_strict_and_free_of_what_postgresql_refuses(value: Any) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    dumped = dump_json(value)
    assert dump_json(json.loads(dumped, parse_constant=refuse)) == dumped
    assert "\\u0000" not in dumped.replace("\\\\", "")


def test_json_is_dumped_in_one_form_whatever_the_order_of_keys() -> None:
    assert dump_json({"role": "user", "content": "é"}) == dump_json(
        {"content": "é", "role": "user"}
    )
