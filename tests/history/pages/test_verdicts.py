"""People's verdicts: added, refused, queued, and exported as labels."""

import json
import re
from typing import Any

import pytest
from sqlalchemy import Engine, insert, text
from starlette.testclient import TestClient

from oyer.history.pages.verdicts import RUNS_TO_REVIEW
from oyer.models.batch import Run
from oyer.models.rows import BatchKey
from oyer.models.writes import record_chunk
from tests.history.conftest import SITE
from tests.support.page_record import FIRST, add_batch
from tests.support.record_rows import make_judgement

ORIGIN = {"origin": SITE}


def form(batches: dict[str, str], **changed: str) -> dict[str, str]:
    given = {
        "batch_id": batches["first"], "index": "0", "judge": "quality", "verdict": "should_be",
        "score": "7", "note": "kinder", "author": "Ada", "blind": "0",
    }  # fmt: skip
    return given | changed


def stored(engine: Engine) -> list[dict[str, Any]]:
    with engine.connect() as conn:
        rows = conn.execute(text("SELECT * FROM human_verdicts ORDER BY created_at")).mappings()
        return [dict(row) for row in rows]


def test_a_verdict_is_a_new_row_and_is_shown(
    client: TestClient, engine: Engine, batches: dict[str, str]
) -> None:
    for note in ("kinder", "<b>again</b>"):
        answer = client.post("/verdicts", data=form(batches, note=note), headers=ORIGIN)
        assert answer.status_code == 200
    assert [row["note"] for row in stored(engine)] == ["kinder", "<b>again</b>"]
    assert stored(engine)[0]["score"] == 7.0
    assert "&lt;b&gt;again&lt;/b&gt;" in answer.text
    # The judgement is as before.
    with engine.connect() as conn:
        query = "SELECT score FROM judgements WHERE batch_id = :id AND rollout_index = 0"
        assert conn.scalar(text(f"{query} AND judge = 'quality'"), {"id": batches["first"]}) == 1.0


@pytest.mark.parametrize(
    ("changed", "status", "said"),
    [
        ({"score": "11"}, 422, "scale is 0 to 10"),
        ({"score": "seven"}, 422, "score: is"),
        ({"score": "nan"}, 422, "score"),
        ({"score": ""}, 422, "score: give one"),
        ({"verdict": "agree"}, 422, "only then"),
        ({"verdict": "no"}, 422, "give agree, should_be or unsure"),
        ({"author": " "}, 422, "author: give your name"),
        ({"note": "x" * 10_001}, 422, "note: has 10001 characters"),
        ({"note": "x" * 200_000}, 413, "too long"),
        ({"index": "-1"}, 422, "index"),
        ({"index": "99"}, 404, "not on record"),
        ({"judge": "nobody"}, 404, "not on record"),
        ({"batch_id": "none"}, 404, "not on record"),
    ],
    ids=str,
)
def test_a_wrong_verdict_is_refused(
    client: TestClient,
    engine: Engine,
    batches: dict[str, str],
    changed: Any,
    status: int,
    said: str,
) -> None:
    answer = client.post("/verdicts", data=form(batches, **changed), headers=ORIGIN)
    assert (answer.status_code, said in answer.text) == (status, True)
    assert stored(engine) == []


def test_the_queue_begins_with_the_largest_disagreement_and_ends(
    client: TestClient, engine: Engine, batches: dict[str, str]
) -> None:
    first = client.get("/review?run=1&mode=disagreements&author=Ada", follow_redirects=False)
    # quality 1 of 10 and safety 1 of 1 are the furthest apart on a common scale; both steps have it.
    assert first.status_code == 303
    seen = set()
    for _ in range(40):
        answer = client.get("/review?run=1&mode=disagreements&author=Ada", follow_redirects=False)
        if answer.status_code == 200:
            break
        place, _, query = answer.headers["location"].partition("?")
        judge = query.rpartition("judge=")[2]
        assert (place, judge) not in seen
        seen.add((place, judge))
        batch_id, index = place.split("/")[2:4]
        given = form(
            batches, batch_id=batch_id, index=index, judge=judge, verdict="unsure", score=""
        )
        client.post("/verdicts", data=given, headers=ORIGIN)
    assert len(seen) == 8 * 2 * 2 - 2 + 4
    assert "every score" in answer.text


def test_a_run_that_is_not_among_the_latest_can_be_reviewed(
    client: TestClient, engine: Engine, batches: dict[str, str]
) -> None:
    with engine.begin() as conn:
        later = [{"name": f"later {i}", "created_at": FIRST} for i in range(RUNS_TO_REVIEW)]
        conn.execute(insert(Run), later)
    page = client.get("/review?run=1").text
    assert '<option value="1" selected>first</option>' in page
    assert client.get("/review?run=999").status_code == 422


def test_the_blind_queue_hides_the_score_until_the_verdict(
    client: TestClient, engine: Engine, batches: dict[str, str]
) -> None:
    answer = client.get("/review?run=1&mode=random&author=Ada")
    assert "The score is hidden until your verdict" in answer.text
    for word in ("Final score", 'class="sum"', 'value="agree"', "<dt>Score</dt>"):
        assert word not in answer.text
    assert '<input type="hidden" name="blind" value="1">' in answer.text


def test_labels_hold_what_statistics_need(
    client: TestClient, engine: Engine, batches: dict[str, str]
) -> None:
    client.post("/verdicts", data=form(batches, blind="1"), headers=ORIGIN)
    agree = form(batches, index="1", verdict="agree", score="", author="Bo")
    client.post("/verdicts", data=agree, headers=ORIGIN)
    unsure = form(batches, index="2", verdict="unsure", score="", author="Bo")
    client.post("/verdicts", data=unsure, headers=ORIGIN)
    rows = [json.loads(line) for line in client.get("/labels.jsonl").text.splitlines()]
    assert [row["label"] for row in rows] == [7.0, 2.0, None]
    assert [row["judge_score"] for row in rows] == [1.0, 2.0, 3.0]
    first = rows[0]
    assert (first["author"], first["blind"], first["run"]) == ("Ada", True, "first")
    assert first["response"] == "The answer is 0, because 0 = 0."
    assert client.get("/labels.jsonl?run=nothing").text == ""


def judged_often(engine: Engine, **judge: Any) -> str:
    """Record a rollout that the judge `quality` judged three times, 2, 4 and 9; returns its batch."""
    plan = {"judges": [{"name": "quality", "scale": [0, 10], "samples": 3, **judge}]}
    given = {"scores": [{"quality": 2.0, "safety": 1.0}], "plan": plan, "submitted_at": FIRST}
    batch: str = add_batch(engine, ["a"], **given)  # type: ignore[arg-type]
    with engine.begin() as conn:
        rows = [make_judgement(0, sample=n, score=score) for n, score in ((1, 4.0), (2, 9.0))]
        record_chunk(conn, BatchKey(FIRST, batch), judgements=rows)
    return batch


@pytest.mark.parametrize(
    ("judge", "score", "said", "spread"),
    [
        ({"criteria_per_call": "all"}, 5.0, "sample 3 of 3", "0.8"),
        ({"aggregate": "median"}, 4.0, "sample 3 of 3", "0.8"),
        # The reward's terms hold the score by which the verdicts of all calls were combined.
        ({"samples": 1, "criteria_per_call": 2}, 2.0, "request 3 of 3", "0.5"),
        (
            {"samples": 1, "criteria_per_call": 2, "normalize": True, "scale": [1, 10]},
            19.0, "request 3 of 3", "0.5556",
        ),
    ],
)  # fmt: skip
def test_a_verdict_is_on_the_score_of_all_samples(
    client: TestClient, engine: Engine, judge: dict[str, Any], score: float, said: str, spread: str
) -> None:
    batch = judged_often(engine, **judge)
    page = client.get(f"/scores/{batch}/0").text
    assert said in page
    assert page.count('data-judge="quality"') == 1
    assert f"on the judge's score, <strong>{score:g}</strong>" in page
    given = form({"first": batch}, verdict="agree", score="")
    client.post("/verdicts", data=given, headers=ORIGIN)
    (row,) = [json.loads(line) for line in client.get("/labels.jsonl").text.splitlines()]
    assert (row["label"], row["judge_score"]) == (score, score)
    cells = re.findall(r'<td class="n">(.*?)</td>', client.get("/runs/1/steps/0").text)
    assert cells[2] == spread
