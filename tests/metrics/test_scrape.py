"""A real scrape of a real backend, on SQLite and on PostgreSQL."""

import threading
from collections import Counter
from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import event, text
from starlette.testclient import TestClient

from oyer.demo.judge_server import JudgeServer
from oyer.demo.responses import Action
from oyer.manager import RewardManager, Rollout
from oyer.metrics.app import create_app
from oyer.models.engine import open_engine, reading
from oyer.protocol.measuring.measurements import run_key
from oyer.protocol.names import CHECK_RUN
from oyer.protocol.redis_client import connect
from oyer.tasks.coordination.budget import budget_key
from tests.support.metric_names import ALERTS, BOARD, EXPORTED, names_in
from tests.support.scripted_backend import DEAD_JUDGE, sibling
from tests.support.waiting import wait_until

Scrape = dict[str, dict[tuple[tuple[str, str], ...], float]]
"""Values by sample name and labels."""

LABELS = {
    *("endpoint", "host", "http_status", "judge", "kind", "le", "queue", "reason", "role", "run"),
    *("source", "state", "status", "url_index"),
}
"""None of them grows with batches or steps."""


def rollouts(tag: str) -> list[Rollout]:
    """Make two groups of two."""
    return [
        Rollout(prompt=f"{tag} {i // 2}", response=f"answer {tag} {i}", group_id=f"{tag} {i // 2}")
        for i in range(4)
    ]


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def manager(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RewardManager]:
    """A backend with every limit that has a metric."""
    folder = tmp_path_factory.mktemp("metrics")
    url = f"sqlite:///{folder / 'oyer.db'}"
    if request.param == "postgres":
        url = request.getfixturevalue("module_postgres_url")
    with JudgeServer(Action(text="Final score: 5")) as judge:
        fake = {
            "base_url": judge.base_url,
            "requests_per_minute": 6000,
            "tokens_per_minute": 6_000_000,
            "prices": {"m": {"prompt_usd": 1, "completion_usd": 1000}},
        }
        dead = {"base_url": "http://127.0.0.1:9/v1", "max_attempts": 1, "prices": fake["prices"]}
        config = {
            "endpoints": {"fake": fake, "dead": dead},
            "judges": [{"name": "q", "endpoint": "fake", "model": "m", "reasks": 0}],
            "budget": {"usd": 5},
            "store": {"url": url},
        }
        with RewardManager.local(config, folder=folder, judge_processes=1) as manager:
            yield manager


@pytest.fixture(scope="module")
def page(manager: RewardManager) -> Iterator[TestClient]:
    """The exporter of the backend."""
    assert manager.config.broker.url is not None
    engine = open_engine(manager.config.store.url)
    with connect(manager.config.broker.url) as client:
        client.config_set("maxmemory", "1gb")
        yield TestClient(create_app(client, engine, manager.config))
    engine.dispose()


def scrape(page: TestClient) -> Scrape:
    """Read all samples with the parser of Prometheus' client."""
    answer = page.get("/metrics")
    assert answer.status_code == 200
    found: Scrape = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            assert not sample.labels.keys() - LABELS
            found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return found


def scrape_until(page: TestClient, **least: float) -> Scrape:
    """Scrape until the sums of these samples have reached their values.

    Trainer, judge worker and combine worker write what they count at different times.
    """
    while True:
        found = scrape(page)
        if all(total(found, name) >= value for name, value in least.items()):
            return found
        threading.Event().wait(0.05)


def total(found: Scrape, name: str) -> float:
    """Return the sum of a sample over its labels."""
    return sum(found.get(name, {}).values())


def recorded(manager: RewardManager) -> dict[str, float]:
    """Return the sums of all attempts on record."""
    names = ("cost_usd", "prompt_tokens", "completion_tokens")
    sums = ", ".join(f"sum({name})" for name in names)
    engine = open_engine(manager.config.store.url)
    with reading(engine) as conn:
        row = conn.execute(text(f"SELECT {sums} FROM attempts")).one()
    engine.dispose()
    return dict(zip(names, map(float, row), strict=True))


def test_a_scrape_holds_every_metric_of_the_board_and_the_alerts(
    manager: RewardManager, page: TestClient
) -> None:
    manager.submit(rollouts("first"), run="a", step=1).result(60)
    manager.submit(rollouts("first"), run="a", step=2).result(60)
    other = sibling(manager, judges=[DEAD_JUDGE])
    other.submit(rollouts("third"), run="b").result(60)
    scrape_until(
        page,
        oyer_trainer_wait_seconds_count=3,
        oyer_judgements_total=12,
        oyer_batch_seconds_count=3,
    )
    shown = names_in(BOARD) | names_in(ALERTS)
    # The gauges of a worker are absent while its heartbeat is late.
    wait_until(lambda: shown <= scrape(page).keys(), "the metrics of the board and the alerts")
    found = scrape(page)
    assert found.keys() - EXPORTED == set()
    judged = found["oyer_judgements_total"]
    by_source = Counter[tuple[str, bool]]()
    for labels, n in judged.items():
        values = dict(labels)
        by_source[values["status"], values["source"] == "called"] += int(n)
    # Whether the cache or the record has the replies is a matter of time.
    assert by_source == {("scored", True): 4, ("scored", False): 4, ("unavailable", True): 4}
    attempts = found["oyer_attempts_total"]
    assert attempts == {
        (("endpoint", "fake"), ("http_status", "200")): 4,
        (("endpoint", "dead"), ("http_status", "none")): 4,
    }
    assert found["oyer_endpoint_up"] == {
        (("endpoint", "fake"), ("url_index", "0")): 1,
        (("endpoint", "dead"), ("url_index", "0")): 0,
    }
    assert found["oyer_reuse_ratio"][()] == pytest.approx(1 / 3)
    (cost,) = [n for labels, n in found["oyer_cost_usd_total"].items() if ("run", "a") in labels]
    on_record = recorded(manager)
    assert on_record["cost_usd"] > 0
    assert cost == pytest.approx(on_record["cost_usd"])
    tokens = {
        kind: sum(n for labels, n in found["oyer_tokens_total"].items() if ("kind", kind) in labels)
        for kind in ("prompt", "completion")
    }
    assert tokens == {kind: on_record[f"{kind}_tokens"] for kind in tokens}
    left = found["oyer_budget_remaining_usd"][(("run", "a"),)]
    assert left == pytest.approx(5 - cost)
    assert found["oyer_groups"][(("run", "a"),)] == 2
    assert found["oyer_zero_spread_groups"][(("run", "a"),)] == 2
    assert found["oyer_batch_seconds_count"][()] == 3
    assert found["oyer_batches_ended_total"][(("status", "finished"),)] == 3
    waits = found["oyer_queue_wait_seconds_count"]
    assert waits[(("queue", "judge"),)] >= 3


def test_the_scores_of_a_stream_count_no_wait(manager: RewardManager, page: TestClient) -> None:
    name = "oyer_trainer_wait_seconds_count"
    before = total(scrape(page), name)
    manager.score(rollouts("streamed")[0], run="a").result(60)
    manager.submit(rollouts("waited for"), run="a", step=6).result(60)
    after = scrape_until(page, **{name: before + 1})
    assert total(after, name) == before + 1


def test_the_budget_of_a_check_is_no_limit_and_is_not_shown(
    manager: RewardManager, page: TestClient
) -> None:
    manager.submit(rollouts("check"), run=CHECK_RUN).result()
    assert manager.config.broker.url is not None
    with connect(manager.config.broker.url) as client:
        wait_until(lambda: bool(client.hexists(run_key(CHECK_RUN), "budget_usd")), "noted")
        wait_until(lambda: bool(client.hexists(budget_key(CHECK_RUN), "spent")), "counted")
    assert (("run", CHECK_RUN),) not in scrape(page)["oyer_budget_usd"]


def test_counters_grow_and_the_number_of_series_does_not(
    manager: RewardManager, page: TestClient
) -> None:
    manager.submit(rollouts("warm"), run="a", step=3).result(60)
    before = settled(manager, page)
    for step in (4, 5):
        manager.submit(rollouts(f"more {step}"), run="a", step=step).result(60)
    after = settled(manager, page)
    for name, values in before.items():
        if name.endswith(("_total", "_bucket", "_count", "_sum")):
            assert all(after[name][labels] >= value for labels, value in values.items()), name
    assert {name: len(values) for name, values in after.items()} == {
        name: len(values) for name, values in before.items()
    }


def settled(manager: RewardManager, page: TestClient) -> Scrape:
    """Scrape when all batches on record are counted as ended, and every process has written values."""
    engine = open_engine(manager.config.store.url)
    with reading(engine) as conn:
        ended = conn.scalar(text("SELECT count(*) FROM batches WHERE finished_at IS NOT NULL"))
    engine.dispose()
    least = {
        "oyer_batches_ended_total": ended or 0,
        "oyer_judgements_total": 4,
        "oyer_trainer_wait_seconds_count": 1,
        "oyer_workers": 2,
    }

    def complete() -> bool:
        found.update(scrape(page))
        # The gauges of a worker are absent while its heartbeat is late.
        there = "oyer_in_flight" in found
        return there and all(total(found, name) >= n for name, n in least.items())

    found: Scrape = {}
    wait_until(complete, f"at least {least}")
    return found


def test_a_new_exporter_continues_the_counters(manager: RewardManager, page: TestClient) -> None:
    assert manager.config.broker.url is not None
    before = scrape(page)
    engine = open_engine(manager.config.store.url)
    with connect(manager.config.broker.url) as client:
        after = scrape(TestClient(create_app(client, engine, manager.config)))
    engine.dispose()
    totals = {name: values for name, values in before.items() if name.endswith("_total")}
    assert sum(total(before, name) for name in totals) > 0
    # Not equal: a process may have written its latest values in between.
    for name, values in totals.items():
        assert all(after[name][labels] >= value for labels, value in values.items()), name


def test_a_scrape_reads_no_judgements(manager: RewardManager) -> None:
    assert manager.config.broker.url is not None
    engine = open_engine(manager.config.store.url)
    statements: list[str] = []
    event.listen(
        engine, "before_cursor_execute", lambda *call: statements.append(str(call[2]).lower())
    )
    with connect(manager.config.broker.url) as client:
        scrape(TestClient(create_app(client, engine, manager.config)))
    engine.dispose()
    assert any("step_totals" in statement for statement in statements)
    large = ("judgements", "attempts", "rollouts", "rewards", "texts", "batches")
    assert [one for one in statements if any(f"from {table}" in one for table in large)] == []


def test_a_resubmission_is_counted_by_its_reason(manager: RewardManager, page: TestClient) -> None:
    assert manager.config.broker.url is not None
    future = manager.submit(rollouts("again"), run="a")
    future.resubmit("made no progress for 30 s")
    future.result(60)
    found = scrape_until(page, oyer_batch_resubmissions_total=1)
    assert found["oyer_batch_resubmissions_total"][(("reason", "stalled"),)] == 1
