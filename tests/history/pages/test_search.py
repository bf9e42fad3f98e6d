"""Search finds each judgement once, however many pages and windows it is read in."""

from datetime import timedelta

import pytest
from sqlalchemy import Engine
from starlette.testclient import TestClient

from oyer.history.pages import search
from tests.history.conftest import links
from tests.support.page_record import FIRST, add_batch


def found_by(client: TestClient, address: str) -> tuple[list[str], list[str]]:
    """Follow the links to older judgements; returns the scores' addresses, and the pages."""
    scores: list[str] = []
    pages: list[str] = []
    following: str | None = address
    while following:
        pages.append(client.get(following).text)
        scores += [one for one in links(pages[-1]) if one.startswith("/scores/")]
        following = next((one for one in links(pages[-1]) if "after=" in one), None)
    return scores, pages


def test_search_pages_by_key_find_each_judgement_once(client: TestClient, engine: Engine) -> None:
    texts = [f"needle {i}" for i in range(70)]
    add_batch(engine, texts, scores=[{"quality": 1.0}] * 70, run="many", submitted_at=FIRST, step=5)
    address = "/search?text=needle&run=many&step=5&judge=quality&status=scored"
    scores, pages = found_by(client, address)
    assert len(scores) == len(set(scores)) == 70
    assert len(pages) == 2


def test_texts_are_found_in_any_case(client: TestClient, engine: Engine) -> None:
    batch = add_batch(
        engine, ["A Needle", "hay"], scores=[{"quality": 1.0}] * 2, submitted_at=FIRST
    )
    assert found_by(client, "/search?text=nEEDLE")[0] == [f"/scores/{batch}/0"]
    rows = client.get("/runs/1/steps/0/rollouts.jsonl?text=nEEDLE").text.splitlines()
    assert len(rows) == 1


@pytest.mark.parametrize("window", [7, 23, 70])
@pytest.mark.parametrize("condition", ["text=needle", "min_cost_usd=0.5"])
def test_a_search_reads_on_after_its_window(
    client: TestClient, engine: Engine, monkeypatch: pytest.MonkeyPatch, window: int, condition: str
) -> None:
    """A window without a match links to the next; the last page has no link."""
    monkeypatch.setattr(search, "WINDOW", window)
    wanted, cost_usd = ["needle"], {"needle": 1.0, "hay": 0.1}
    for number, texts in enumerate([*[wanted, ["hay"] * 22] * 3, wanted]):
        add_batch(
            engine,
            texts,
            scores=[{"quality": 1.0}] * len(texts),
            submitted_at=FIRST + timedelta(seconds=number),
            judgement={"cost_usd": cost_usd[texts[0]]},
        )
    scores, pages = found_by(client, f"/search?{condition}")
    assert len(scores) == len(set(scores)) == 4
    assert len(pages) == 70 // window + 1
    empty = [page for page in pages[:-1] if "/scores/" not in page]
    assert all("older ones are on the next page" in page for page in empty)
    assert (window < 23) == bool(empty)
