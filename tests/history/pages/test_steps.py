"""The page of a step: filters, order, the query and the files that hold what it shows."""

import csv
import io
import json
import re
from html import unescape
from typing import Any

import pytest
from sqlalchemy import Engine
from starlette.testclient import TestClient

from oyer.history.downloads import rows_of_step
from oyer.history.pages.steps import Cell, Group
from oyer.models.step_total import NO_STEP
from tests.history.conftest import links
from tests.support.page_record import FIRST, add_batch


@pytest.mark.parametrize(
    ("query", "shown"),
    [
        ("", 8),
        ("status=timeout", 1),
        ("low=2.4&high=2.6", 1),
        ("component=quality&low=7", 2),
        ("text=answer+is+5", 1),
        ("text=%25", 0),
    ],
)
def test_a_step_is_filtered(
    client: TestClient, batches: dict[str, str], query: str, shown: int
) -> None:
    page = client.get(f"/runs/1/steps/0?{query}").text
    assert f"{shown} of" in page
    assert page.count('<a class="cell') == shown


@pytest.mark.parametrize("sort", ["best", "worst", "spread", "disagreement", "cost", "latency"])
def test_groups_are_sorted(client: TestClient, batches: dict[str, str], sort: str) -> None:
    page = client.get(f"/runs/1/steps/0?sort={sort}").text
    if sort in ("best", "worst"):
        order = [page.index(f"<bdi>{name}</bdi>") for name in ("g0", "g1")]
        assert (order[0] > order[1]) == (sort == "best")
    assert page.count('<th scope="row">') == 2


def test_the_step_is_downloaded_as_it_is_filtered(
    client: TestClient, batches: dict[str, str]
) -> None:
    base = "/runs/1/steps/0/rollouts"
    lines = [json.loads(line) for line in client.get(f"{base}.jsonl").text.splitlines()]
    assert len(lines) == 8
    assert lines[0]["quality"] == 1.0
    (row,) = csv.DictReader(io.StringIO(client.get(f"{base}.csv?status=timeout").text))
    assert (row["rollout_index"], row["reward"]) == ("3", "")
    assert client.get(f"{base}.xlsx").status_code == 404


def test_a_filter_that_nothing_fits_keeps_its_fields(
    client: TestClient, batches: dict[str, str]
) -> None:
    page = client.get("/runs/1/steps/0?status=timeout&component=quality&low=1&text=is+5").text
    assert "0 of 8 rollouts" in page
    assert "<option selected>timeout</option>" in page
    assert "<option selected>quality</option>" in page


@pytest.fixture
def splits(engine: Engine) -> dict[str | None, str]:
    """A run with a step without a number, in three splits and a preliminary batch; ids by split."""
    scores = [{"quality": 5.0, "safety": 1.0}, {"quality": None, "safety": 1.0}]
    where: Any = {"scores": scores, "run": "it's/100%", "step": None, "submitted_at": FIRST}
    responses = ["50% of_it", "50 of it"]
    add_batch(engine, responses, preliminary=True, **where)
    add_batch(engine, responses, **where | {"step": 0})
    return {
        split: add_batch(engine, responses, split=split, **where)
        for split in (None, "train", "eval's")
    }


@pytest.mark.parametrize(
    "query",
    [
        "", "?split=", "?split=train", "?split=eval%27s", "?status=timeout", "?low=2.4&high=2.6",
        "?component=quality&low=4", "?component=length_penalty&high=-0.001", "?text=0%25+OF_",
        "?text=nothing",
    ],
)  # fmt: skip
def test_the_query_finds_what_the_page_shows(
    client: TestClient, engine: Engine, splits: dict[str | None, str], query: str
) -> None:
    page = client.get(f"/runs/1/steps/-1{query}").text
    (sql,) = re.findall(r"<pre>(SELECT.*?)</pre>", page, re.DOTALL)
    with engine.connect() as conn:
        # By the driver, for which a percent sign is no placeholder.
        driver: Any = conn.connection.driver_connection
        found = {row[:2] for row in driver.execute(unescape(sql))}
    shown = re.findall(r'href="/scores/([^/"]+)/(\d+)"', page)
    assert found == {(batch, int(index)) for batch, index in shown}
    assert bool(found) == ("nothing" not in query)


def test_the_way_back_leads_to_the_split(client: TestClient, splits: dict[str | None, str]) -> None:
    for split, batch in splits.items():
        for kind in ("groups", "scores"):
            back = next(
                one for one in links(client.get(f"/{kind}/{batch}/0").text) if "/steps/" in one
            )
            page = client.get(back).text
            assert [other for other in splits.values() if other in page] == [batch], split


def test_a_component_does_not_replace_a_column() -> None:
    cell = Cell("b", 0, "g", 1.5, "scored", True, 7, {"status": 4.0, "reward": 2.0, "quality": 3.0})
    page = {"run": {"name": "first"}, "step": 0, "groups": [Group("g", [cell])]}
    (row,) = rows_of_step(page)
    assert (row["status"], row["reward"], row["quality"]) == ("scored", 1.5, 3.0)
    assert (row["component/status"], row["component/reward"]) == (4.0, 2.0)


@pytest.mark.parametrize(("step", "written"), [(0, 0), (NO_STEP, None)])
def test_a_batch_without_a_step_has_none_in_downloads(step: int, written: int | None) -> None:
    cell = Cell("b", 0, "g", 1.5, "scored", True, 7, {})
    page = {"run": {"name": "first"}, "step": step, "groups": [Group("g", [cell])]}
    assert [row["step"] for row in rows_of_step(page)] == [written]
