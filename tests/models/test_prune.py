"""Pruning deletes what was selected with all that belongs to it, and nothing that others hold."""

import threading
from datetime import timedelta

import pytest
from sqlalchemy import Engine, event, func, select, text
from sqlalchemy.exc import SQLAlchemyError

from oyer.models import Attempt, Base, Batch, Judgement, Reward, Rollout, Submission, Text
from oyer.models import prune as pruning
from oyer.models.prune import PRUNED_TEXT, Pruned, Selection, not_ended, prune, selected
from oyer.models.record import (
    ensure_run_and_batch,
    finish_batch,
    record_chunk,
    record_rewards,
    record_submissions,
)
from oyer.models.store import reading
from tests.models.factories import (
    START,
    make_attempt,
    make_batch,
    make_judgement,
    make_reward,
    make_rollout,
    make_submission,
)

PARTS = (Attempt, Judgement, Reward, Rollout)


def record(
    engine: Engine, batch_id: str, *, size: int = 4, ended: bool = True, **batch: object
) -> None:
    """Record a batch whose prompts other batches have as well, and whose responses are its own."""
    with engine.begin() as conn:
        key = ensure_run_and_batch(conn, make_batch(id=batch_id, size=size, **batch))
        record_submissions(conn, batch_id, [make_submission(batch_id)])
        record_chunk(
            conn,
            key,
            rollouts=[make_rollout(i, response=f"{batch_id} {i}") for i in range(size)],
            judgements=[make_judgement(i) for i in range(size)],
            attempts=[make_attempt(i) for i in range(size)],
        )
        record_rewards(conn, key, [make_reward(i) for i in range(size)])
        if ended:
            finish_batch(conn, batch_id, status="finished", finished_at=START, counts={}, usage={})


def rows(engine: Engine) -> dict[str, int]:
    with reading(engine) as conn:
        return {
            name: conn.scalar(select(func.count()).select_from(table)) or 0
            for name, table in Base.metadata.tables.items()
        }


def texts(engine: Engine) -> set[str]:
    with reading(engine) as conn:
        return set(conn.scalars(select(Text.body)))


def batches(engine: Engine) -> list[str]:
    with reading(engine) as conn:
        return sorted(conn.scalars(select(Batch.id)))


def test_a_pruned_run_leaves_the_record_as_if_it_had_never_been(engine: Engine) -> None:
    record(engine, "kept", run="kept")
    before, words = rows(engine), texts(engine)
    record(engine, "a", run="gone", size=5)
    record(engine, "b", run="gone", size=3)
    done = list(prune(engine, Selection(runs=["gone"]), texts_only=False))
    assert done == [Pruned(batches=2, rollouts=8)]
    assert rows(engine) == before | {"runs": 2}
    assert texts(engine) == words


def test_a_batch_larger_than_a_transaction_goes_in_several(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pruning, "SLICE_ROLLOUTS", 3)
    record(engine, "a", size=7)
    record(engine, "b", size=2, submitted_at=START + timedelta(seconds=1))
    done = list(prune(engine, Selection(runs=["tool-n1"]), texts_only=False))
    assert done == [Pruned(0, 3), Pruned(0, 3), Pruned(2, 3)]
    assert not any(count for name, count in rows(engine).items() if name != "runs")


def test_an_interrupted_prune_is_finished_by_the_next(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pruning, "SLICE_ROLLOUTS", 3)
    record(engine, "a", size=7)
    first = prune(engine, Selection(runs=["tool-n1"]), texts_only=False)
    next(first)
    first.close()  # type: ignore[attr-defined]
    assert (batches(engine), rows(engine)["judgements"]) == (["a"], 4)
    assert sum(
        done.batches for done in prune(engine, Selection(runs=["tool-n1"]), texts_only=False)
    )
    assert not any(count for name, count in rows(engine).items() if name != "runs")


def test_a_selection_holds_what_all_its_conditions_say(engine: Engine) -> None:
    record(engine, "old", run="a")
    record(engine, "old-kept", run="b")
    record(engine, "old-open", run="a", ended=False)
    record(engine, "new", run="a", submitted_at=START + timedelta(days=2))
    chosen = Selection(before=START + timedelta(days=1), keep_runs=["b"])
    with reading(engine) as conn:
        assert selected(conn, chosen) == Pruned(batches=1, rollouts=4)
        assert not_ended(conn, chosen) == 1
    list(prune(engine, chosen, texts_only=False))
    assert batches(engine) == ["new", "old-kept", "old-open"]


def test_texts_alone_can_go_and_the_scores_stay(engine: Engine) -> None:
    record(engine, "a", run="gone")
    record(engine, "b", run="kept")
    before = rows(engine)
    for _ in range(2):
        list(prune(engine, Selection(runs=["gone"]), texts_only=True))
        with reading(engine) as conn:
            found = conn.execute(
                text(
                    "SELECT DISTINCT prompt, response, reference, reply, parsed_span, score, reward"
                    " FROM judge_history WHERE run = 'gone'"
                )
            ).all()
            others = conn.execute(
                text("SELECT response, reply FROM judge_history WHERE run = 'kept'")
            ).all()
        assert [tuple(row) for row in found] == [
            (PRUNED_TEXT, PRUNED_TEXT, None, None, None, 7.0, 1.5)
        ]
        assert {row[0] for row in others} == {f"b {i}" for i in range(4)}
        assert {row[1] for row in others} == {make_judgement()["reply"]}
    after = rows(engine)
    assert {name for name in before if after[name] != before[name]} == {"texts"}
    assert not {f"a {i}" for i in range(4)} & texts(engine)


def test_a_worker_that_writes_meanwhile_keeps_its_texts(engine: Engine) -> None:
    """A worker finds a text on record and refers to it, while the prune is about to delete it."""
    record(engine, "old", run="gone")
    begun, errors = threading.Event(), []

    def write() -> None:
        begun.wait(60)
        try:
            record(engine, "new", run="kept", ended=False)
        except SQLAlchemyError as error:
            errors.append(error)

    writer = threading.Thread(target=write)
    writer.start()

    def at_first_text(*args: object) -> None:
        if "DELETE FROM texts" in str(args[2]):
            begun.set()

    event.listen(engine, "before_cursor_execute", at_first_text)
    list(prune(engine, Selection(runs=["gone"]), texts_only=False))
    begun.set()
    writer.join(60)
    assert errors == []
    with reading(engine) as conn:
        found = conn.scalars(text("SELECT prompt FROM judge_history WHERE run = 'kept'")).all()
    assert sorted(found) == sorted(str(make_rollout(i)["prompt"]) for i in range(4))


@pytest.mark.parametrize("model", [*PARTS, Submission])
def test_each_foreign_key_is_indexed(model: type[Base]) -> None:
    leading = {next(iter(index.columns)).name for index in model.__table__.indexes}  # type: ignore[attr-defined]
    leading.add(next(iter(model.__table__.primary_key)).name)
    for key in model.__table__.foreign_keys:
        assert key.parent.name in leading
