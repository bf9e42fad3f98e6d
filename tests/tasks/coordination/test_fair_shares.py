"""Slots that `limiter.lua` gives to the runs, on a real Redis; no thread, no waiting."""

import json
from collections.abc import Iterator
from dataclasses import replace
from importlib import resources
from typing import Any

import pytest
from redis import Redis

from oyer.protocol.redis_client import connect, load_script
from oyer.tasks.coordination.limiter_state import LimiterState, Limits
from tests.support import limiter_exchange

LIMITS = replace(limiter_exchange.LIMITS, max_in_flight=12)

Demand = dict[str, tuple[float, int]]
"""Weight and wanted calls of each run."""


class Worker:
    """A worker that reports what its runs want."""

    def __init__(self, redis: Redis, name: str, limits: Limits = LIMITS) -> None:
        self.name = name
        self._state = LimiterState(limits, name, clock_s=0.0)
        self._script = load_script(redis, "oyer.tasks.coordination", "limiter")
        self.asked: dict[str, Any] = {}

    def shares(self, demand: Demand) -> dict[str, int]:
        """Exchange; returns this worker's slots by run."""
        flows = [(name, weight, wanted) for name, (weight, wanted) in demand.items()]
        wanted = sum(calls for _, _, calls in flows)
        self._state.want(wanted)
        self.asked = self._state.ask(0.0, [0] * wanted, flows=flows)
        reply = json.loads(self._script(keys=["limits"], args=[json.dumps(self.asked)]))
        self._state.take(reply, 0.0, 0.0)
        return self._state.shares


@pytest.fixture
def redis(redis_url: str) -> Iterator[Redis]:
    with connect(redis_url) as client:
        yield client


def test_a_run_with_calls_on_one_worker_gets_its_share_of_all_slots(redis: Redis) -> None:
    first, second = Worker(redis, "1"), Worker(redis, "2")
    both: Demand = {"a": (1.0, 100), "b": (1.0, 100)}
    first.shares(both)
    assert second.shares({"a": (1.0, 100)}) == {"a": 3}
    assert first.shares(both) == {"a": 3, "b": 6}


def test_shares_follow_the_weights(redis: Redis) -> None:
    worker = Worker(redis, "1")
    assert worker.shares({"a": (1.0, 100), "b": (3.0, 100)}) == {"a": 3, "b": 9}


def test_what_a_run_does_not_want_goes_to_the_others(redis: Redis) -> None:
    worker = Worker(redis, "1")
    assert worker.shares({"a": (1.0, 100), "b": (3.0, 2)}) == {"a": 10, "b": 2}
    assert worker.shares({"a": (0.001, 100)}) == {"a": 12}


def test_three_runs_of_equal_weight_get_equal_shares(redis: Redis) -> None:
    worker = Worker(redis, "1")
    assert worker.shares(dict.fromkeys("abc", (1.0, 50))) == {"a": 4, "b": 4, "c": 4}


def test_slots_of_a_worker_that_died_serve_the_other_runs(redis: Redis) -> None:
    first, second = Worker(redis, "1"), Worker(redis, "2")
    second.shares({"b": (1.0, 100)})
    assert first.shares({"a": (1.0, 100)}) == {"a": 6}
    # Its entry expires.
    redis.hset("limits", "w:2", "6 6 100 0")
    assert first.shares({"a": (1.0, 100)}) == {"a": 12}
    assert not redis.hexists("limits", "r:2")


def test_a_share_below_one_slot_gets_its_turn(redis: Redis) -> None:
    """The offset of the rounding changes every second; the clock is the script's argument here."""
    text = resources.files("oyer.tasks.coordination").joinpath("limiter.lua").read_text()
    clock = "local now = time[1] * 1000"
    assert clock in text
    text = text.replace(clock, f"time[1] = tonumber(ARGV[2])\n{clock}")
    script = redis.register_script(text)
    worker = Worker(redis, "1")
    demand: Demand = {"background": (1 / 32, 100), "training": (1.0, 100)}
    worker.shares(demand)
    turns = []
    for second in range(3300):
        ask = worker.asked | {"max_in_flight": 1, "born": "", "held": 0}
        reply = json.loads(script(keys=["turns"], args=[json.dumps(ask), str(10**9 + second)]))
        assert sum(reply["shares"].values()) == 1
        turns.append(reply["shares"]["background"])
    assert 95 <= sum(turns) <= 105
    # It is never left without for much longer than its 33 turns.
    gaps = "".join(map(str, turns)).strip("0").split("1")
    assert max(map(len, gaps)) <= 66


def test_a_worker_of_the_last_release_counts_as_one_run(redis: Redis) -> None:
    worker = Worker(redis, "1")
    worker.shares({"a": (1.0, 100)})
    redis.hset("limits", "w:old", f"0 0 100 {10**15}")
    assert worker.shares({"a": (1.0, 100), "b": (1.0, 100)}) == {"a": 4, "b": 4}
