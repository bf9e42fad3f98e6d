"""Limits over four real judge workers, read from the endpoint's own log.

The rates take one minute and the beginning of the next; `test_limiter_processes` tests the limiter alone for
longer.
"""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from oyer.demo.judge_server import JudgeServer
from oyer.demo.request_log import RequestEntry, max_in_any_window, max_in_flight, tokens
from oyer.demo.responses import Action, lognormal
from oyer.manager import RewardManager
from tests.integration.test_main_job import read
from tests.support.rollouts import rollouts_of

WORKERS = 4
REQUESTS = 600
TOKENS = 60_000
IN_FLIGHT = 24
WINDOW_S = 60.0
REPLY = "The answer is right.\n\nFinal score: 6"


@pytest.fixture(scope="module")
def judge() -> Iterator[JudgeServer]:
    """An endpoint whose log keeps no bodies."""
    with JudgeServer(body_limit_bytes=0) as server:
        yield server


@pytest.fixture(scope="module")
def manager(
    judge: JudgeServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RewardManager]:
    """A backend of four judge processes, with an endpoint for each limit."""
    folder = tmp_path_factory.mktemp("limits")
    limits: dict[str, dict[str, Any]] = {
        "requests": {"requests_per_minute": REQUESTS, "max_in_flight": 200},
        "tokens": {"tokens_per_minute": TOKENS, "max_in_flight": 200},
        "in_flight": {"max_in_flight": IN_FLIGHT},
    }
    config = {
        "endpoints": {n: {"base_url": judge.base_url, **limit} for n, limit in limits.items()},
        "judges": [{"name": "q", "endpoint": "requests", "model": "m", "max_tokens": 256}],
        "store": {"url": f"sqlite:///{folder / 'oyer.db'}"},
    }
    with RewardManager.local(config, folder=folder, judge_processes=WORKERS) as opened:
        yield opened


def judged(
    manager: RewardManager, judge: JudgeServer, endpoint: str, n: int, *, hold: int = 0
) -> list[RequestEntry]:
    """Judge `n` rollouts, the first `hold` calls at once, and return the endpoint's log."""
    paced = Action(text=REPLY, latency_s=lognormal(0.05, 0.8))
    judge.set_plan(Action(text=REPLY, hold=True) if hold else paced)
    judge.reset()
    raw = manager.config.model_dump(mode="json")
    judges = [{**raw["judges"][0], "endpoint": endpoint}]
    rollouts = rollouts_of(f"{endpoint} of {n}", n)
    future = RewardManager({**raw, "judges": judges}).submit(rollouts)
    if hold:
        judge.wait_until(lambda log: len(log) >= hold)
        judge.set_plan(paced)
        judge.release()
    batch = future.result(timeout_s=280)
    assert batch.statuses == ["scored"] * n
    query = "SELECT DISTINCT worker FROM judgements WHERE batch_id = :id"
    assert len(read(manager, query, id=batch.id)) == min(n, WORKERS)
    return sorted(judge.requests, key=lambda arrival: arrival.arrived_at_s)


def check_rate(
    log: list[RequestEntry], allowed: int, weight: Callable[[RequestEntry], int]
) -> None:
    """Check that no minute holds more than allowed, and that 90 % of the rate is reached."""
    assert max_in_any_window(log, WINDOW_S, weight) <= allowed
    passed = itertools.accumulate(map(weight, log))
    last = next(arrival for arrival, sum_ in zip(log, passed, strict=True) if sum_ > allowed)
    assert last.arrived_at_s - log[0].arrived_at_s <= WINDOW_S / 0.9


def test_no_more_calls_in_flight_than_allowed(manager: RewardManager, judge: JudgeServer) -> None:
    log = judged(manager, judge, "in_flight", 1000, hold=IN_FLIGHT)
    assert max_in_flight(log) == IN_FLIGHT


@pytest.mark.slow
def test_no_more_requests_in_any_minute_than_allowed_and_nearly_all(
    manager: RewardManager, judge: JudgeServer
) -> None:
    log = judged(manager, judge, "requests", REQUESTS + 200)
    check_rate(log, REQUESTS, lambda _: 1)


@pytest.mark.slow
def test_no_more_tokens_in_any_minute_than_allowed_and_nearly_all(
    manager: RewardManager, judge: JudgeServer
) -> None:
    (one,) = judged(manager, judge, "tokens", 1)
    log = judged(manager, judge, "tokens", TOKENS * 4 // 3 // tokens(one))
    check_rate(log, TOKENS, tokens)
