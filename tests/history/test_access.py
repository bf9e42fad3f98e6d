"""Who is answered, with which headers, and how far a query goes."""

import pytest
from sqlalchemy import Engine, make_url, text
from starlette.testclient import TestClient

from oyer import migrations
from oyer.history.access import AccessRules
from oyer.history.app import create_app
from oyer.history.reading import QueryTooSlow, bounded
from oyer.migrations import roles
from oyer.models.engine import open_engine
from tests.history.conftest import SITE
from tests.support.page_record import fill

SLOW = {
    "sqlite": "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n",
    "postgresql": "SELECT pg_sleep(30)",
}


def test_every_answer_has_the_security_headers(client: TestClient) -> None:
    for address in ("/", "/runs/9", "/static/page.css", "/search?step=x"):
        headers = client.get(address).headers
        assert headers["content-security-policy"].startswith("default-src 'none'; ")
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "same-origin"


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8790", 200),
        ("127.0.0.1", 200),
        ("[::1]:8790", 200),
        ("page.example", 200),
        ("evil.example", 403),
        ("localhost.evil.example", 403),
        ("", 403),
    ],
)
def test_only_names_of_this_server_are_answered(engine: Engine, host: str, status: int) -> None:
    app = create_app(engine, AccessRules(hosts=frozenset(["page.example"])))
    answer = TestClient(app, base_url=SITE).get("/", headers={"host": host})
    assert answer.status_code == status


@pytest.mark.parametrize("origin", [None, "null", "http://evil.example", "http://localhost:1"])
def test_a_form_of_another_page_is_refused(client: TestClient, origin: str | None) -> None:
    headers = {} if origin is None else {"origin": origin}
    answer = client.post("/verdicts", content="verdict=agree", headers=headers)
    assert answer.status_code == 403


def test_a_token_is_needed_once_and_leaves_the_address(engine: Engine) -> None:
    client = TestClient(create_app(engine, AccessRules(token="secret")), base_url=SITE)
    assert client.get("/").status_code == 401
    assert client.get("/?token=wrong").status_code == 401
    first = client.get("/search?judge=q&token=secret", follow_redirects=False)
    assert (first.status_code, first.headers["location"]) == (303, "/search?judge=q")
    assert "HttpOnly" in first.headers["set-cookie"]
    assert client.get("/").status_code == 200
    bearer = {"authorization": "Bearer secret"}
    other = TestClient(create_app(engine, AccessRules(token="secret")), base_url=SITE)
    assert other.get("/", headers=bearer).status_code == 200


def test_a_slow_query_ends_in_time(engine: Engine) -> None:
    with pytest.raises(QueryTooSlow, match="narrow the filters"), bounded(engine, 0.2) as conn:
        conn.execute(text(SLOW[engine.dialect.name]))
    with bounded(engine) as conn:
        assert conn.scalar(text("SELECT 1")) == 1


def test_a_page_cannot_write(engine: Engine) -> None:
    with pytest.raises(Exception, match=r"(?i)read.?only"), bounded(engine) as conn:
        conn.execute(text("DELETE FROM runs"))


def test_the_analyst_reads_every_page_and_a_verdict_names_the_fix(postgres_url: str) -> None:
    migrations.upgrade(postgres_url)
    owner = open_engine(postgres_url)
    ids = fill(owner)
    with owner.begin() as conn:
        conn.execute(text("CREATE ROLE page_reader LOGIN"))
    roles.apply(postgres_url, [], ["page_reader"])
    url = make_url(postgres_url).set(username="page_reader")
    engine = open_engine(url.render_as_string(hide_password=False))
    try:
        client = TestClient(create_app(engine), base_url=SITE)
        score = f"/scores/{ids['first']}/0"
        pages = ("/", "/runs/1", "/runs/1/steps/0", f"/groups/{ids['first']}/0", score, "/search")
        assert [client.get(page).status_code for page in pages] == [200] * 6
        form = {
            "batch_id": ids["first"], "index": "0", "judge": "quality", "verdict": "agree",
            "author": "me",
        }  # fmt: skip
        answer = client.post("/verdicts", data=form, headers={"origin": SITE})
        assert answer.status_code == 403
        assert "may only read" in answer.text
        assert "human_verdicts" in answer.text
    finally:
        engine.dispose()
        with owner.begin() as conn:
            conn.execute(text("DROP OWNED BY page_reader"))
            conn.execute(text("DROP ROLE page_reader"))
        owner.dispose()


def test_health_needs_no_token_and_no_known_name(engine: Engine) -> None:
    app = create_app(engine, AccessRules(token="secret"))
    client = TestClient(app, base_url=SITE, headers={"host": "10.0.0.7:8790"})
    for path in ("/healthz", "/readyz"):
        assert (client.get(path).status_code, client.get(path).json()) == (200, {"status": "ok"})


def test_a_record_of_another_release_is_not_ready(empty_url: str) -> None:
    migrations.upgrade(empty_url, "0001")
    engine = open_engine(empty_url)
    client = TestClient(create_app(engine), base_url=SITE)
    assert client.get("/healthz").status_code == 200
    ready = client.get("/readyz")
    engine.dispose()
    assert (ready.status_code, "run `oyer db upgrade`" in ready.json()["error"]) == (503, True)
