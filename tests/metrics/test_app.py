"""The exporter without a backend: health, access, and what a scrape holds while a part is down."""

from collections.abc import Iterator

import pytest
import redis
from sqlalchemy import Engine
from starlette.testclient import TestClient

from oyer import migrations
from oyer.config.reward import RewardConfig
from oyer.metrics.app import create_app
from oyer.models.engine import open_engine
from oyer.protocol import names
from oyer.protocol.redis_client import connect
from tests.support.metric_names import EXPORTED

CONFIG = RewardConfig(length=())


@pytest.fixture
def client(redis_url: str) -> redis.Redis:
    return connect(redis_url)


@pytest.fixture
def engine(store_url: str) -> Iterator[Engine]:
    opened = open_engine(store_url)
    yield opened
    opened.dispose()


@pytest.fixture
def away() -> redis.Redis:
    """A broker that refuses connections."""
    return connect("redis://127.0.0.1:9/0")


def test_a_working_backend_is_ready(client: redis.Redis, engine: Engine) -> None:
    page = TestClient(create_app(client, engine, CONFIG))
    for path in ("/healthz", "/readyz"):
        assert (page.get(path).status_code, page.get(path).json()) == (200, {"status": "ok"})
    found = page.get("/metrics").text
    assert "\noyer_redis_up 1.0\n" in found
    assert "\noyer_record_up 1.0\n" in found
    assert '\noyer_workers{role="judge"} 0.0\n' in found


def test_without_redis_the_record_is_still_exported(away: redis.Redis, engine: Engine) -> None:
    page = TestClient(create_app(away, engine, CONFIG))
    assert page.get("/healthz").status_code == 200
    ready = page.get("/readyz")
    assert (ready.status_code, "broker" in ready.json()["error"]) == (503, True)
    answer = page.get("/metrics")
    assert answer.status_code == 200
    assert "\noyer_redis_up 0.0\n" in answer.text
    assert "\noyer_record_up 1.0\n" in answer.text
    assert "\noyer_queue_length{" not in answer.text


def test_no_counter_falls_to_0_while_redis_is_away(
    client: redis.Redis, away: redis.Redis, engine: Engine
) -> None:
    """Prometheus would take it for a restart, and count everything again once Redis is back."""

    def samples(broker: redis.Redis) -> set[str]:
        text = TestClient(create_app(broker, engine, CONFIG)).get("/metrics").text
        return {line.partition("{")[0].partition(" ")[0] for line in text.splitlines()} & EXPORTED

    assert "oyer_batches_ended_total" in samples(client)
    assert samples(away) == {"oyer_redis_up", "oyer_record_up"}


def test_a_record_that_is_not_migrated_is_not_ready(client: redis.Redis, empty_url: str) -> None:
    engine = open_engine(empty_url)
    page = TestClient(create_app(client, engine, CONFIG))
    ready = page.get("/readyz")
    assert ready.status_code == 503
    assert ready.json()["error"] == "the record has no schema; run `oyer db upgrade`"
    assert "\noyer_record_up 0.0\n" in page.get("/metrics").text
    migrations.upgrade(empty_url, "0001")
    assert "is at revision 0001, not" in page.get("/readyz").json()["error"]
    migrations.upgrade(empty_url)
    assert page.get("/readyz").status_code == 200
    engine.dispose()


def test_a_database_that_is_away_is_not_ready(client: redis.Redis) -> None:
    engine = open_engine("postgresql://nobody@127.0.0.1:9/none")
    page = TestClient(create_app(client, engine, CONFIG))
    error = page.get("/readyz").json()["error"]
    assert error == "the record does not answer: OperationalError"
    assert "\noyer_record_up 0.0\n" in page.get("/metrics").text


def test_the_longest_wait_for_the_record_is_exported(client: redis.Redis, engine: Engine) -> None:
    now_s = client.time()[0]
    for worker, since in (("a", "null"), ("b", now_s - 100), ("c", now_s - 5)):
        entry = f'{{"host": "h", "pid": 1, "waits_for_record_since": {since}}}'
        client.set(names.worker_key("judge", worker), entry)
    text = TestClient(create_app(client, engine, CONFIG)).get("/metrics").text
    (line,) = [one for one in text.splitlines() if one.startswith("oyer_record_lag_seconds ")]
    assert float(line.split()[1]) >= 100
    assert '\noyer_workers{role="judge"} 3.0\n' in text
    assert '\noyer_worker_up{host="h",role="judge"} 1.0\n' in text


def test_only_requests_with_the_token_get_metrics(client: redis.Redis, engine: Engine) -> None:
    page = TestClient(create_app(client, engine, CONFIG, token="s3cret"))
    for given in ({}, {"Authorization": "Bearer wrong"}):
        assert page.get("/metrics", headers=given).status_code == 401
    assert page.get("/metrics", headers={"Authorization": "Bearer s3cret"}).status_code == 200
    assert page.get("/readyz").status_code == 200


def test_prometheus_gets_the_format_that_it_asks_for(client: redis.Redis, engine: Engine) -> None:
    page = TestClient(create_app(client, engine, CONFIG))
    plain = page.get("/metrics")
    assert plain.headers["content-type"].startswith("text/plain; version=")
    asked = page.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert asked.headers["content-type"].startswith("application/openmetrics-text")
    assert asked.text.endswith("# EOF\n")
