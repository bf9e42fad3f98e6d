"""Every page answers, links to the next, and shows hostile texts as texts."""

import asyncio
import re
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError
from starlette.testclient import TestClient

from oyer.history.app import create_app
from oyer.history.rendering import render
from oyer.models.rows import BatchKey
from oyer.models.writes import record_chunk
from oyer.protocol.names import CHECK_RUN
from tests.history.conftest import SITE, links
from tests.support.page_record import FIRST, HOSTILE, add_batch
from tests.support.record_rows import make_judgement

SCRIPTS = ['<script src="/static/page.js" defer>']


class Tags(HTMLParser):
    """The tags and attributes of a page, as a browser sees them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.handlers: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.handlers += [name for name, _ in attrs if name.startswith("on") or name == "style"]


def test_two_clicks_lead_from_a_run_to_the_reason_of_a_reward(
    client: TestClient, batches: dict[str, str]
) -> None:
    run = next(one for one in links(client.get("/").text) if one.startswith("/runs/"))
    # The newest run is the hostile one.
    assert "&lt;i&gt;run&lt;/i&gt;/x" in client.get(run).text
    run = [one for one in links(client.get("/").text) if one.startswith("/runs/")][1]
    step = next(one for one in links(client.get(run).text) if "/steps/1" in one)
    score = next(one for one in links(client.get(step).text) if one.startswith("/scores/"))
    page = client.get(score).text
    assert '<mark class="span">Final score:' in page
    assert "judge:quality" in page
    assert "gateway timeout" not in page


def test_every_link_of_the_site_answers(client: TestClient, batches: dict[str, str]) -> None:
    seen: set[str] = set()
    todo = ["/", "/search", "/review"]
    while todo:
        address = todo.pop()
        if address in seen or "base=" in address:
            continue
        seen.add(address)
        answer = client.get(address)
        assert answer.status_code == 200, (address, answer.text[:300])
        if answer.headers["content-type"].startswith("text/html"):
            todo += links(answer.text)
    assert len([one for one in seen if one.startswith("/scores/")]) == 8 + 8 + len(HOSTILE) + 4


def test_no_html_of_a_rollout_is_rendered(client: TestClient, batches: dict[str, str]) -> None:
    pages = [f"/scores/{batches['hostile']}/{i}" for i in range(len(HOSTILE))]
    pages += [f"/groups/{batches['hostile']}/0", "/", "/search?text=script", "/search?run=<b>"]
    for address in pages:
        answer = client.get(address)
        seen = Tags(answer.text)
        assert answer.status_code == 200
        assert seen.tags.count("script") == 1, address
        assert not {"img", "b", "i"} & set(seen.tags), address
        assert seen.handlers == [], address
        assert "\x00" not in answer.text


def test_a_long_text_is_cut_and_linked_as_plain_text(
    client: TestClient, batches: dict[str, str]
) -> None:
    page = client.get(f"/scores/{batches['hostile']}/4").text
    assert len(page) < 400_000
    (whole,) = [one for one in links(page) if one.startswith("/texts/")]
    answer = client.get(whole)
    assert answer.text == HOSTILE[4]
    assert answer.headers["content-type"].startswith("text/plain")
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_the_missing_score_says_why(client: TestClient, batches: dict[str, str]) -> None:
    page = client.get(f"/scores/{batches['first']}/3").text
    assert "no reply within 60 s" in page
    assert "gateway timeout" in page
    assert "504" in page


def test_the_group_ranks_folds_equal_responses_and_marks_words(
    client: TestClient, batches: dict[str, str]
) -> None:
    page = client.get(f"/groups/{batches['first']}/6").text
    assert page.count("<article") == 3
    assert "The same response: rollouts 7." in page or "The same response: rollouts 6." in page
    assert '<mark class="added">' in page
    assert "quality by tokens" in page


@pytest.mark.parametrize(
    ("address", "status", "said"),
    [
        ("/runs/99", 404, "not on record"),
        ("/groups/none/0", 404, "not on record"),
        ("/scores/none/0", 404, "not on record"),
        ("/texts/none", 404, "not on record"),
        ("/search?step=x", 422, "step: is"),
        ("/search?since=yesterday", 422, "since: is"),
        ("/search?after=x", 422, "after: is not the key"),
        ("/runs/1/steps/0?low=x", 422, "low: is"),
        ("/runs/1/steps/x", 422, "step: is"),
        ("/runs/1/steps/0?sort=nope", 422, "sort: is &#39;nope&#39;; give one of order, best"),
        (f"/runs/{'9' * 5000}", 404, "Not Found"),
        (f"/scores/none/{'9' * 5000}", 404, "Not Found"),
        ("/groups/FIRST/0?base=99", 422, "base: rollout 99 is not of this group"),
        ("/scores/FIRST/0?review=x", 422, "review: is"),
        ("/scores/FIRST/0?review=1&mode=nope", 422, "mode: is &#39;nope&#39;; give disagreements"),
        ("/review?run=1&author=ada&mode=nope", 422, "mode: is &#39;nope&#39;; give disagreements"),
        ("/review?run=99&author=ada", 422, "run: 99 is not on record"),
        ("/search?min_cost_usd=nan", 422, "min_cost_usd: is"),
        ("/search?since=0001-01-01T00:00%2B14:00", 422, "since: is"),
        ("/search?until=9999-12-31T23:59-14:00", 422, "until: is"),
        ('/search?after=["0001-01-01T00:00:00%2B14:00","b",0,"quality",0]', 422, "after: is not"),
        ('/search?after=["2026-03-01","b",Infinity,"quality",0]', 422, "after: is not the key"),
        ('/search?after=["2026-03-01","\\ud800",0,"quality",0]', 422, "after: is not the key"),
        (f"/search?after={'[' * 3000}", 422, "after: is not the key"),
    ],
)
def test_a_wrong_address_names_the_fix(
    client: TestClient, batches: dict[str, str], address: str, status: int, said: str
) -> None:
    answer = client.get(address.replace("FIRST", batches["first"]))
    assert (answer.status_code, said in answer.text) == (status, True)


def test_an_empty_record_says_what_to_do(client: TestClient) -> None:
    assert "oyer demo" in client.get("/").text
    assert "Nothing found" in client.get("/search").text
    assert client.get("/review").status_code == 200


def test_a_record_of_an_older_release_is_named(engine: Engine, batches: dict[str, str]) -> None:
    with engine.begin() as conn:
        conn.execute(text("DROP TABLE step_totals"))
    answer = TestClient(create_app(engine), base_url=SITE).get("/")
    assert answer.status_code == 503
    assert "oyer db upgrade" in answer.text


def test_a_locked_record_is_not_called_an_old_one(engine: Engine, tmp_path: Path) -> None:
    first, second = (sqlite3.connect(tmp_path / "held.db", timeout=0) for _ in range(2))
    with closing(first), closing(second):
        first.execute("BEGIN EXCLUSIVE")
        with pytest.raises(sqlite3.OperationalError) as locked:
            second.execute("BEGIN IMMEDIATE")
    handler: Any = create_app(engine).exception_handlers[DBAPIError]
    answer = asyncio.run(handler(None, DBAPIError("INSERT", {}, locked.value)))
    page = answer.body.decode()
    assert (answer.status_code, "oyer db upgrade" in page) == (503, False)
    assert "database is locked. Another process has locked the record" in page


def test_a_batch_under_way_is_listed(client: TestClient, batches: dict[str, str]) -> None:
    assert batches["open"][:8] in client.get("/").text
    assert "The batch has not ended" in client.get(f"/scores/{batches['open']}/0").text


def test_samples_and_the_fall_back_are_named(client: TestClient, engine: Engine) -> None:
    batch = add_batch(engine, ["a"], scores=[{"quality": 5.0}], submitted_at=FIRST)
    key = BatchKey(FIRST, batch)
    with engine.begin() as conn:
        extra = [make_judgement(0, sample=1), make_judgement(0, judge="quality/fallback")]
        record_chunk(conn, key, judgements=extra)
    page = client.get(f"/scores/{batch}/0").text
    assert "Judge <bdi>quality</bdi>, sample 2 of 2" in page
    assert "Fall-back of judge <bdi>quality</bdi></h2>" in page


def test_the_verdict_on_each_criterion_is_shown(client: TestClient, engine: Engine) -> None:
    batch = add_batch(engine, ["a"], scores=[{"quality": 5.0}], submitted_at=FIRST)
    criteria: list[dict[str, Any]] = [
        {
            "position": 0, "name": "cites <b>a source</b>", "weight": 3.0, "required": True,
            "verdict": "true", "value": 1.0, "reason": "names <i>RFC 9110</i>",
        },
        {"position": 1, "name": "is brief", "weight": -1.0, "required": False},
    ]  # fmt: skip
    with engine.begin() as conn:
        row = make_judgement(0, judge="rubric", criteria=criteria)
        record_chunk(conn, BatchKey(FIRST, batch), judgements=[row])
    page = client.get(f"/scores/{batch}/0").text
    assert page.count("<h3>Criteria</h3>") == 1
    cells = re.findall(r"<td[^>]*>(.*?)</td>", page.partition("<h3>Criteria</h3>")[2])[:10]
    assert cells == [
        "cites &lt;b&gt;a source&lt;/b&gt;", "true", "1", "3, required",
        "names &lt;i&gt;RFC 9110&lt;/i&gt;",
        "is brief", "missing", "–", "−1", "–",
    ]  # fmt: skip


def test_the_comparisons_of_a_group_judge_are_readable(client: TestClient, engine: Engine) -> None:
    plan = {"judges": [{"name": "quality", "scale": [-1, 1]}]}
    scores = [{"quality": 1.0}, {"quality": -1.0}]
    batch = add_batch(engine, ["a", "b"], scores=scores, submitted_at=FIRST, plan=plan)
    pair = make_judgement(0, judge="quality/pairs", sample=4, score=1.0, reply="the first is right")
    whole = make_judgement(1, judge="all", source="joined", request_hash=None, attempts=0)
    with engine.begin() as conn:
        record_chunk(conn, BatchKey(FIRST, batch), judgements=[pair, whole])
    page = client.get(f"/scores/{batch}/0").text
    assert "Comparison by judge <bdi>quality</bdi>, request 5</h2>" in page
    assert "the first is right" in page
    assert page.count("on −1 to 1") == 2
    # A verdict is on the rollout's score, and so is the disagreement.
    assert page.count('<form class="verdict"') == 1
    form = {"batch_id": batch, "index": "0", "judge": "quality/pairs", "verdict": "agree"}
    answer = client.post("/verdicts", data=form, headers={"origin": SITE})
    assert (answer.status_code, "not on a comparison" in answer.text) == (422, True)
    review = client.get("/review?run=1&author=Ada", follow_redirects=False)
    assert "pairs" not in review.headers["location"]
    other = client.get(f"/scores/{batch}/1").text
    assert "the requests are those of the group&#39;s comparisons" in other


def test_the_scores_after_earlier_turns_are_no_scores_of_the_rollout(
    client: TestClient, engine: Engine
) -> None:
    plan = {"judges": [{"name": "quality", "scale": [0, 10], "view": "each_turn"}]}
    batch = add_batch(engine, ["a"], scores=[{"quality": 9.0}], submitted_at=FIRST, plan=plan)
    first = make_judgement(0, judge="quality/turns", turn=0, score=1.0, reply="barely begun")
    spare = make_judgement(0, judge="quality/fallback/turns", turn=1, score=2.0)
    with engine.begin() as conn:
        record_chunk(conn, BatchKey(FIRST, batch), judgements=[first, spare])
    page = client.get(f"/scores/{batch}/0").text
    assert "Judge <bdi>quality</bdi>, turn 1</h2>" in page
    assert "Fall-back of judge <bdi>quality</bdi>, turn 2</h2>" in page
    assert "barely begun" in page
    assert page.count('<form class="verdict"') == 1
    form = {"batch_id": batch, "index": "0", "judge": "quality/turns", "verdict": "agree"}
    answer = client.post("/verdicts", data=form, headers={"origin": SITE})
    assert (answer.status_code, "an earlier turn" in answer.text) == (422, True)
    review = client.get("/review?run=1&author=Ada", follow_redirects=False)
    assert "turns" not in review.headers["location"]


def test_a_plan_of_an_older_release_is_shown(client: TestClient, engine: Engine) -> None:
    plan = {"judges": [{"name": "quality", "scale": [0, 10]}]}
    batch = add_batch(engine, ["a"], scores=[{"quality": 5.0}], submitted_at=FIRST, plan=plan)
    for address in (f"/scores/{batch}/0", f"/groups/{batch}/0", "/runs/1", "/runs/1/steps/0"):
        assert client.get(address).status_code == 200


@pytest.mark.parametrize(("run", "shown"), [("first", True), (CHECK_RUN, False)])
def test_the_budget_of_a_run_is_shown_unless_it_is_that_of_a_check(
    client: TestClient, engine: Engine, run: str, shown: bool
) -> None:
    plan = {"judges": [{"name": "quality"}], "budget": {"usd": 7.5}}
    add_batch(engine, ["a"], scores=[{"quality": 5.0}], submitted_at=FIRST, plan=plan, run=run)
    assert ("Share of the budget" in client.get("/runs/1").text) == shown


@pytest.mark.parametrize("parameters", ['{"key": "0", "scale": [1, 10]}', "[]", "no JSON"])
def test_the_parameters_of_another_release_are_no_error(
    client: TestClient, engine: Engine, parameters: str
) -> None:
    batch = add_batch(
        engine, ["a"], scores=[{"quality": 5.0}], submitted_at=FIRST,
        judgement={"parameters": parameters},
    )  # fmt: skip
    page = client.get(f"/scores/{batch}/0")
    assert page.status_code == 200
    assert "cannot read the request&#39;s parameters as Oyer 0.1.0 recorded them: " in page.text


def test_a_page_has_no_nul() -> None:
    assert "a\ufffdb" in render("error.html", {"message": "a\0b"})
