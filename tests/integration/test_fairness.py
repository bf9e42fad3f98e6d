"""Runs that share endpoints and real judge workers; the order of calls is read from the judge's log."""

import contextlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from oyer.demo.judge_server import JudgeServer
from oyer.demo.request_log import RequestEntry
from oyer.demo.responses import Action
from oyer.manager import RewardFuture, RewardManager
from oyer.protocol import names
from oyer.protocol.batch import Priority
from tests.support.rollouts import rollouts_of
from tests.support.waiting import wait_until

IN_FLIGHT = 16
PROMPT = Action(text="Final score: 6", latency_s=0.1)
HELD = Action(text="Final score: 6", hold=True)


@pytest.fixture(scope="module")
def judge() -> Iterator[JudgeServer]:
    with JudgeServer(body_limit_bytes=0) as server:
        yield server


@pytest.fixture(scope="module")
def slow_judge() -> Iterator[JudgeServer]:
    with JudgeServer(HELD, body_limit_bytes=0) as server:
        yield server


def config_of(**endpoints: JudgeServer) -> dict[str, Any]:
    return {
        "endpoints": {
            # Held calls are not to be repeated.
            name: {"base_url": server.base_url, "max_in_flight": IN_FLIGHT, "timeout_s": 600}
            for name, server in endpoints.items()
        },
        "judges": [{"name": "q", "endpoint": "e", "model": "m"}],
        "run_weights": {"heavy": 3.0},
    }


@pytest.fixture(scope="module")
def manager(
    judge: JudgeServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RewardManager]:
    """A backend of two judge processes."""
    folder = tmp_path_factory.mktemp("fairness")
    config = config_of(e=judge) | {"store": {"url": f"sqlite:///{folder / 'oyer.db'}"}}
    with RewardManager.local(config, folder=folder, judge_processes=2) as opened:
        yield opened


def submit(
    manager: RewardManager,
    run: str,
    count: int,
    *,
    endpoint: str = "e",
    priority: Priority = "training",
) -> RewardFuture:
    """Submit rollouts of a run, which the judge's log shows as the model."""
    name = f"{run} {priority}"
    judges = [{"name": "q", "endpoint": endpoint, "model": name}]
    raw = manager.config.model_dump(mode="json") | {"judges": judges}
    rollouts = rollouts_of(f"{name} {endpoint} {count}", count)
    return RewardManager(raw).submit(rollouts, run=run, priority=priority)


@contextlib.contextmanager
def held(manager: RewardManager, judge: JudgeServer) -> Iterator[None]:
    """Hold all calls while the block submits runs, until workers have sorted their messages.

    Otherwise, the first run's calls would begin and end alone while the others are submitted.
    """
    judge.set_plan(HELD)
    yield
    with redis.Redis.from_url(str(manager.config.broker.url)) as client:
        wait_until(lambda: client.llen(names.JUDGE_QUEUE) == 0, "every message is in its flow")
    judge.set_plan(PROMPT)
    judge.release()


def called(log: list[RequestEntry]) -> list[str]:
    """The model of each call, in the order in which the calls arrived."""
    return [str(entry.model) for entry in sorted(log, key=lambda entry: entry.sequence)]


def calls_between(judge: JudgeServer, name: str) -> Counter[str]:
    """Count the calls from the first quarter to the last quarter of a run's: all runs wait then."""
    order = called(judge.requests)
    places = [place for place, model in enumerate(order) if model == name]
    return Counter(order[places[len(places) // 4] : places[3 * len(places) // 4]])


def judged(*futures: RewardFuture) -> None:
    for future in futures:
        assert future.result(timeout_s=120).mask.all()


@pytest.fixture(autouse=True)
def _fresh_log(judge: JudgeServer) -> None:
    judge.set_plan(PROMPT)
    judge.reset()


def test_a_backlog_does_not_delay_another_run(manager: RewardManager, judge: JudgeServer) -> None:
    with held(manager, judge):
        backlog = submit(manager, "A", 512)
        judge.wait_until(lambda log: len(log) == IN_FLIGHT)
        later = submit(manager, "B", 2 * IN_FLIGHT)
    judged(later)
    order = called(judge.requests)
    assert order.count("B training") == 2 * IN_FLIGHT
    assert order.count("A training") < 512 / 2
    backlog.cancel()


def test_a_slow_endpoint_takes_no_slot_from_others(
    judge: JudgeServer, slow_judge: JudgeServer, tmp_path: Path
) -> None:
    config = config_of(e=judge, slow=slow_judge) | {
        "store": {"url": f"sqlite:///{tmp_path / 'oyer.db'}"}
    }
    # The slow run has chunks for many times the slots of all workers.
    with RewardManager.local(
        config, folder=tmp_path, judge_processes=2, judge_concurrency=6
    ) as manager:
        stuck = submit(manager, "A", 512, endpoint="slow")
        slow_judge.wait_until(lambda log: len(log) >= IN_FLIGHT)
        assert submit(manager, "B", 256).result(timeout_s=60).mask.all()
        # All of A's calls are still in flight or waiting.
        assert len(slow_judge.requests) == IN_FLIGHT
        stuck.cancel()
        slow_judge.set_plan(PROMPT)
        slow_judge.release()


def test_runs_of_equal_weight_call_equally_often(
    manager: RewardManager, judge: JudgeServer
) -> None:
    with held(manager, judge):
        futures = [submit(manager, run, 384) for run in "XYZ"]
    judged(*futures)
    # The first run has the first calls, and so is the first to end.
    counts = calls_between(judge, "X training")
    assert len(counts) == 3
    # A run counts about 190 calls there, and a worker that is busy elsewhere delays 16 of them.
    assert max(counts.values()) <= 1.2 * min(counts.values())


def test_a_run_calls_in_proportion_to_its_weight(
    manager: RewardManager, judge: JudgeServer
) -> None:
    with held(manager, judge):
        futures = [submit(manager, run, 384) for run in ("light", "heavy")]
    judged(*futures)
    counts = calls_between(judge, "heavy training")
    assert 2.5 <= counts["heavy training"] / counts["light training"] <= 3.5


def test_background_calls_progress_without_delaying_training(
    manager: RewardManager, judge: JudgeServer
) -> None:
    with held(manager, judge):
        background = submit(manager, "eval", 512, priority="background")
        judge.wait_until(lambda log: len(log) == IN_FLIGHT)
        training = submit(manager, "T", 1024)
    # The background share is less than a slot, and a slot in one of three seconds at least.
    judged(training)
    counts = calls_between(judge, "T training")
    # Without priorities, both would have equal parts.
    assert 0 < counts["eval background"] <= counts["T training"] / 8
    background.cancel()
