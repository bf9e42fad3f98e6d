"""Texts of attempts are stored once, and never lost with a judgement that is replaced."""

from hashlib import sha256
from typing import Any

from sqlalchemy import Engine, select

from oyer.models import Attempt
from oyer.models.rows import BatchKey, Turns
from oyer.models.writes import ensure_run_and_batch, record_chunk
from tests.support.record_counts import texts
from tests.support.record_rows import make_attempt, make_batch, make_judgement


def new_batch(engine: Engine) -> BatchKey:
    with engine.begin() as conn:
        return ensure_run_and_batch(conn, make_batch())


def attempts_on_record(engine: Engine) -> list[dict[str, Any]]:
    query = select(Attempt.__table__).order_by(Attempt.number)
    with engine.connect() as conn:
        return [dict(row) for row in conn.execute(query).mappings()]


def hash_of(body: str) -> str:
    return sha256(body.encode()).hexdigest()


def test_a_reply_that_was_replaced_stays_with_its_attempt(engine: Engine) -> None:
    key = new_batch(engine)
    unread = make_judgement(status="unparseable", score=None, reply="Hm.", parameters="{1}")
    first = make_attempt(reply="Hm.", reasoning="So.", parameters="{1}")
    again = make_attempt(number=2, reply="Final score: 7", parameters="{2}")
    scored = make_judgement(reply="Final score: 7", parameters="{2}")
    with engine.begin() as conn:
        record_chunk(conn, key, judgements=[unread], attempts=[first])
        record_chunk(conn, key, judgements=[scored], attempts=[again])
    kept, held = attempts_on_record(engine)
    assert (kept["reply_hash"], kept["reasoning_hash"]) == (hash_of("Hm."), hash_of("So."))
    assert kept["parameters_hash"] == hash_of("{1}")
    # The judgement has a score, so that it stays: what it holds is not stored twice.
    assert (held["reply_hash"], held["parameters_hash"]) == (None, None)
    assert texts(engine) == {"Hm.", "So.", "{1}", "{2}"}


def test_the_reply_of_a_late_duplicate_is_kept_though_its_judgement_is_not(engine: Engine) -> None:
    key = new_batch(engine)
    late = make_judgement(reply="Late: 3", score=3.0, parameters="{3}")
    with engine.begin() as conn:
        record_chunk(conn, key, judgements=[make_judgement(reply="Early: 7", parameters="{1}")])
        attempt = make_attempt(reply="Late: 3", parameters="{3}")
        (stored,) = record_chunk(conn, key, judgements=[late], attempts=[attempt])
    assert stored.get("reply") == "Early: 7"
    (kept,) = attempts_on_record(engine)
    assert (kept["reply_hash"], kept["parameters_hash"]) == (hash_of("Late: 3"), hash_of("{3}"))
    assert "Late: 3" in texts(engine)


def test_a_reask_names_the_reply_that_it_answers_by_its_hash(engine: Engine) -> None:
    key = new_batch(engine)
    turns: Turns = {
        "kept": 2,
        "added": [{"role": "assistant", "content": "Hm."}, {"role": "user", "content": "Score?"}],
    }
    tries = [make_attempt(reply="Hm."), make_attempt(number=2, reply=None, turns=turns)]
    with engine.begin() as conn:
        record_chunk(conn, key, attempts=tries)
    assert attempts_on_record(engine)[1]["turns"] == {
        "kept": 2,
        "added": [
            {"role": "assistant", "content_hash": hash_of("Hm.")},
            {"role": "user", "content_hash": hash_of("Score?")},
        ],
    }
    assert texts(engine) == {"Hm.", "Score?"}
