"""Who is answered, how much is read, readiness and the description of the routes."""

import base64
from typing import Any

import pytest

from oyer.manager import InvalidInput, RewardManager
from oyer.server.settings import check_bind
from tests.support.scripted_backend import sibling
from tests.support.served_app import Served, served


def test_a_body_over_the_limit_is_refused(backend: RewardManager) -> None:
    with served(backend, max_body_bytes=1000) as server:
        announced = server.post("/rm", {"prompt": "p", "response": "r" * 2000})
        chunked = server.request(
            "POST", "/rm", b"7d0\r\n" + b"r" * 2000 + b"\r\n0\r\n\r\n", {"Transfer-Encoding": "chunked"}
        )  # fmt: skip
        fits = server.post("/rm", {"prompt": "p", "response": "fits"})
    assert (announced.status, chunked.status, fits.status) == (413, 413, 200)


def test_only_requests_with_the_token_are_answered(backend: RewardManager) -> None:
    sample = {"prompt": "p", "response": "r"}
    basic = base64.b64encode(b"oyer:s3cret").decode()
    with served(backend, token="s3cret") as server:
        for wrong in ({}, {"Authorization": "Bearer s3cre"}, {"Authorization": "Basic !"}):
            refused = server.post("/rm", sample, **wrong)
            assert refused.status == 401
            assert refused.headers["www-authenticate"] == "Bearer"
        for right in (f"Bearer {'s3cret'}", f"Basic {basic}"):
            assert server.post("/rm", sample, Authorization=right).status == 200
        assert server.get("/healthz").status == 200


def test_readiness_reports_what_is_missing(
    server: Served, backend: RewardManager, redis_url: str
) -> None:
    assert server.get("/healthz").json() == {"status": "ok"}
    assert server.get("/readyz").json() == {"status": "ok"}
    away = sibling(backend, broker={"url": "redis://127.0.0.1:9/0"})
    with served(away) as other:
        alive, ready = other.get("/healthz"), other.get("/readyz")
        refused = other.post("/rm", {"prompt": "p", "response": "r"})
    assert (alive.status, ready.status) == (200, 503)
    assert "broker" in ready.json()["error"]
    with served(sibling(backend, broker={"url": redis_url})) as other:
        ready = other.get("/readyz")
    assert ready.status == 503
    assert ready.json()["error"] == "no worker on queue judge, combine"
    away = sibling(backend, store={"url": "sqlite:///none/none.db"})
    with served(away) as other:
        ready = other.get("/readyz")
    assert ready.status == 503
    assert "the record has no schema" in ready.json()["error"]
    assert refused.json() == 0.0


def test_the_openapi_schema_has_every_route_and_its_references_resolve(server: Served) -> None:
    description = server.get("/openapi.json").json()
    assert set(description["paths"]) == {
        "/v1/score", "/get_reward", "/rm", "/grade", "/graders/run", "/healthz", "/readyz",
    }  # fmt: skip
    models = description["components"]["schemas"]

    def check(value: Any) -> None:
        if isinstance(value, dict):
            if "$ref" in value:
                assert value["$ref"].rpartition("/")[2] in models
            for item in value.values():
                check(item)
        elif isinstance(value, list):
            for item in value:
                check(item)

    check(description)
    page = server.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    for path in description["paths"]:
        assert path in page.body.decode()


def test_the_docs_page_loads_nothing_and_the_schema_names_the_token(
    backend: RewardManager,
) -> None:
    with served(backend, token="s3cret") as server:
        page = server.get("/docs").body.decode()
        operation = server.get("/openapi.json").json()["paths"]["/v1/score"]["post"]
        unknown, wrong_method = server.get("/nowhere"), server.get("/rm")
    assert not any(loaded in page for loaded in ("<script", "<link", "src=", "href="))
    assert {"HTTPBearer": []} in operation["security"]
    assert (unknown.status, wrong_method.status) == (404, 405)
    assert unknown.json() == {"error": "Not Found"}


def test_other_machines_need_a_token() -> None:
    for host in ("127.0.0.1", "localhost", "::1", "127.1.2.3"):
        check_bind(host, None)
    check_bind("0.0.0.0", "token")
    for host in ("0.0.0.0", "::", "10.0.0.1", "rewards.example"):
        with pytest.raises(InvalidInput, match="--token-env"):
            check_bind(host, None)
