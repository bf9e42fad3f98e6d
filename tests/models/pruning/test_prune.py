"""Pruning deletes what was selected with all that belongs to it, and nothing that others hold."""

import threading
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, event, insert, select, text, update
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from oyer.models import (
    Attempt,
    Base,
    BatchSubmission,
    HumanVerdict,
    Judgement,
    Reward,
    Rollout,
    RolloutImage,
)
from oyer.models.engine import reading
from oyer.models.pruning import prune as pruning
from oyer.models.pruning.prune import PRUNED_TEXT, Pruned, Selection, not_ended, prune, selected
from oyer.models.writes import (
    add_to_totals,
    ensure_run_and_batch,
    finish_batch,
    record_chunk,
    record_rewards,
    record_submissions,
)
from tests.support.record_counts import batches, rows, texts
from tests.support.record_rows import (
    START,
    make_attempt,
    make_batch,
    make_judgement,
    make_reward,
    make_rollout,
    make_submission,
)

PARTS = (Attempt, Judgement, Reward, Rollout, RolloutImage)


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


IMAGE = "data:image/png;base64," + "QUJD" * 100


def record_images(engine: Engine, batch_id: str, run: str, *images: str) -> None:
    """Record a batch of one rollout whose prompt and response hold these images."""
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in images]
    messages = [{"role": "user", "content": [*parts, {"type": "text", "text": batch_id}]}]
    with engine.begin() as conn:
        key = ensure_run_and_batch(conn, make_batch(id=batch_id, run=run, size=1))
        rollout = make_rollout(0, prompt=messages, response=messages, tools=[{"name": batch_id}])
        record_chunk(conn, key, rollouts=[rollout], judgements=[make_judgement(0)])
        finish_batch(conn, batch_id, status="finished", finished_at=START, counts={}, usage={})


@pytest.mark.parametrize("texts_only", [False, True])
def test_an_image_goes_with_the_last_rollout_that_holds_it(
    engine: Engine, texts_only: bool
) -> None:
    own = IMAGE + "own"
    record_images(engine, "a", "gone", IMAGE, own)
    record_images(engine, "b", "kept", IMAGE)
    list(prune(engine, Selection(runs=["gone"]), texts_only=texts_only))
    left = texts(engine)
    assert IMAGE in left
    assert own not in left
    assert '[{"name":"a"}]' not in left
    assert '[{"name":"b"}]' in left
    assert rows(engine)["rollout_images"] == 1


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


@pytest.mark.parametrize("model", [*PARTS, BatchSubmission])
def test_each_foreign_key_is_indexed(model: type[Base]) -> None:
    leading = {next(iter(index.columns)).name for index in model.__table__.indexes}  # type: ignore[attr-defined]
    leading.add(next(iter(model.__table__.primary_key)).name)
    for key in model.__table__.foreign_keys:
        assert key.parent.name in leading


def record_request(engine: Engine, batch_id: str, run: str, words: dict[str, str]) -> None:
    """Record a batch of one rollout whose judgement and attempts hold these texts by hash."""
    changed: dict[str, Any] = {name: {"content": word} for name, word in words.items()}
    added = [{"role": "user", "content": words.get("turn", "again")}]
    with engine.begin() as conn:
        key = ensure_run_and_batch(conn, make_batch(id=batch_id, run=run, size=1))
        record_chunk(
            conn,
            key,
            rollouts=[make_rollout(0, response=f"response of {batch_id}")],
            judgements=[
                make_judgement(
                    0,
                    status="unparseable",
                    score=None,
                    reply="no score",
                    reasoning="thought",
                    parameters={"p": words["parameters"]},
                    messages=[changed["messages"]],
                )
            ],
            attempts=[
                make_attempt(
                    0,
                    parameters={"p": words["other"]},
                    reply=words["reply"],
                    reasoning=words["reasoning"],
                    error="refused",
                    turns={"kept": 1, "added": added},
                )
            ],
        )
        finish_batch(conn, batch_id, status="finished", finished_at=START, counts={}, usage={})


PLACES = ("parameters", "messages", "other", "reply", "reasoning", "turn")
"""Where a request holds texts: of its judgement, of its attempt, and in the turns of a re-ask."""


@pytest.mark.parametrize("texts_only", [False, True])
@pytest.mark.parametrize("place", PLACES)
def test_a_text_of_a_request_goes_with_its_last_row(
    engine: Engine, place: str, texts_only: bool
) -> None:
    words = {name: f"word of {name}" for name in PLACES}
    record_request(engine, "a", "gone", words)
    own = {name: f"kept {name}" for name in PLACES} | {place: words[place]}
    record_request(engine, "b", "kept", own)
    kept = texts(engine)
    list(prune(engine, Selection(runs=["gone"]), texts_only=texts_only))
    left = texts(engine)
    stays = {place, "parameters", "other"} if texts_only else {place}
    for name, word in words.items():
        assert any(word in body for body in left) == (name in stays), name
    assert all(any(word in body for body in left) for word in own.values())
    assert left <= kept | {PRUNED_TEXT}
    list(prune(engine, Selection(runs=["kept"]), texts_only=texts_only))
    assert any(words[place] in body for body in texts(engine)) == (
        texts_only and place in ("parameters", "other")
    )


def test_a_prompt_stays_that_equals_what_another_request_holds(engine: Engine) -> None:
    """The texts of rollouts and of requests are one table: equal ones are one row."""
    prompt = str(make_rollout(0)["prompt"])
    record(engine, "a", run="gone", size=1)
    words = {name: f"word of {name}" for name in PLACES}
    record_request(engine, "b", "kept", words | {"turn": prompt})
    with engine.begin() as conn:
        conn.execute(
            update(Rollout).where(Rollout.batch_id == "b").values(prompt_hash=Rollout.response_hash)
        )
    list(prune(engine, Selection(runs=["gone"]), texts_only=False))
    assert prompt in texts(engine)


def test_no_word_of_a_judge_is_left_where_texts_go(engine: Engine) -> None:
    words = {name: f"word of {name}" for name in PLACES}
    record_request(engine, "a", "gone", words)
    list(prune(engine, Selection(runs=["gone"]), texts_only=True))
    with reading(engine) as conn:
        judged = conn.execute(select(Judgement.__table__)).mappings().one()
        tried = conn.execute(select(Attempt.__table__)).mappings().one()
    assert [judged[name] for name in ("reply", "reasoning", "parsed_span", "messages_hash")] == [
        None
    ] * 4
    assert [tried[name] for name in ("reply_hash", "reasoning_hash", "turns", "error")] == [
        None
    ] * 4
    assert judged["parameters_hash"] is not None


def test_the_engine_checks_references_after_a_prune(engine: Engine) -> None:
    record(engine, "a", run="gone")
    list(prune(engine, Selection(runs=["gone"]), texts_only=False))
    with pytest.raises(IntegrityError), engine.begin() as conn:
        conn.execute(insert(BatchSubmission).values(make_submission("nowhere")))


def test_verdicts_and_totals_go_with_the_last_batch_of_their_step(engine: Engine) -> None:
    for batch_id, day in (("old", 0), ("new", 9)):
        record(engine, batch_id, submitted_at=START + timedelta(days=day))
        verdict = {
            "id": batch_id, "batch_id": batch_id, "rollout_index": 0, "judge": "quality",
            "verdict": "agree", "author": "me", "blind": False, "created_at": START,
        }  # fmt: skip
        with engine.begin() as conn:
            conn.execute(insert(HumanVerdict).values(verdict))
            add_to_totals(conn, batch_id, {"reward": (4, 6.0, 9.0)})
    list(prune(engine, Selection(before=START + timedelta(days=1)), texts_only=False))
    assert (rows(engine)["human_verdicts"], rows(engine)["step_totals"]) == (1, 1)
    list(prune(engine, Selection(), texts_only=False))
    assert (rows(engine)["human_verdicts"], rows(engine)["step_totals"]) == (0, 0)
