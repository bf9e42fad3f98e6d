"""All workers together never spend more than a run's budget, also if Redis loses its state."""

import subprocess
import sys
import threading
import time

import pytest
import redis

from oyer.config.reward import Budget
from oyer.protocol.redis_client import connect
from oyer.tasks.coordination.budget import AHEAD_CALLS, RunBudget
from tests.support.services import free_port

FAR_S = 3600.0


def purse(url: str, holder: str = "a", recorded: float = 0.0, **fields: float) -> RunBudget:
    budget = Budget.model_validate({"usd": 1.0, **fields})
    return RunBudget(
        connect(url), "r", budget, holder=holder, recorded_usd=lambda: recorded, call_s=5, keep_s=60
    )


def reserve(
    purse: RunBudget, usd: float, *, first: bool = True, wait_s: float = FAR_S
) -> str | None:
    return purse.reserve(usd, first_sample=first, deadline=time.time() + wait_s)


def test_a_call_that_would_pass_the_limit_is_refused(redis_url: str) -> None:
    mine = purse(redis_url)
    for _ in range(10):
        assert reserve(mine, 0.1) is None
        mine.settle(0.1, 0.1)
    assert reserve(mine, 0.1) == "hard"


def test_unspent_reservations_become_available_to_others(redis_url: str) -> None:
    mine, other = purse(redis_url), purse(redis_url, "b")
    assert reserve(mine, 0.9) is None
    assert reserve(other, 0.5, wait_s=0.0) == "expired"
    mine.settle(0.9, 0.1)
    mine.report()
    assert reserve(other, 0.5) is None


def test_a_call_waits_while_only_reservations_block_it(redis_url: str) -> None:
    mine, other = purse(redis_url), purse(redis_url, "b")
    assert reserve(mine, 0.9) is None
    ended: list[str | None] = []
    waiting = threading.Thread(target=lambda: ended.append(reserve(other, 0.5)))
    waiting.start()
    mine.settle(0.9, 0.2)
    mine.report()
    waiting.join(30)
    assert ended == [None]


def test_past_the_soft_mark_only_first_samples_are_begun(redis_url: str) -> None:
    mine = purse(redis_url, soft_fraction=0.5)
    assert reserve(mine, 0.6, first=False) is None
    mine.settle(0.6, 0.6)
    assert reserve(mine, 0.1, first=False) == "soft"
    assert reserve(mine, 0.1) is None


def test_a_new_process_respects_a_soft_mark_that_others_have_passed(
    redis_url: str,
) -> None:
    other = purse(redis_url, soft_fraction=0.5)
    assert reserve(other, 0.6) is None
    other.settle(0.6, 0.6)
    assert reserve(purse(redis_url, "b", soft_fraction=0.5), 0.1, first=False) == "soft"
    assert reserve(purse(redis_url, "c", soft_fraction=0.5), 0.1) is None


def test_far_from_the_limit_calls_share_one_round_trip(redis_url: str) -> None:
    mine = purse(redis_url)
    with redis.Redis.from_url(redis_url) as client:

        def scripts() -> int:
            stats = client.info("commandstats")
            return int(stats.get("cmdstat_evalsha", {"calls": 0})["calls"])

        assert reserve(mine, 0.001) is None
        before = scripts()
        for _ in range(AHEAD_CALLS):
            assert reserve(mine, 0.001) is None
        assert scripts() == before


def test_without_a_sum_in_redis_it_is_read_from_the_record(redis_url: str) -> None:
    assert reserve(purse(redis_url, recorded=0.95), 0.1) == "hard"


def test_a_sum_lost_by_redis_is_rebuilt_from_record_and_workers(redis_url: str) -> None:
    spent = {"recorded": 0.0}
    purses = [
        RunBudget(
            connect(redis_url),
            "r",
            Budget(usd=1.0),
            holder=name,
            recorded_usd=lambda: spent["recorded"],
            call_s=5,
            keep_s=60,
        )
        for name in "ab"
    ]
    for mine in purses:
        assert reserve(mine, 0.3) is None
        mine.settle(0.3, 0.3)
        mine.report()
    spent["recorded"] = 0.3
    purses[0].recorded(0.3)
    with redis.Redis.from_url(redis_url) as client:
        client.flushall()
    # The first reads the record; the second adds its unrecorded spending.
    assert reserve(purses[0], 0.1) is None
    purses[1].report()
    assert reserve(purses[1], 0.41) == "hard"
    purses[0].report()
    assert reserve(purses[1], 0.29) is None


def test_a_dead_workers_reservation_expires_and_its_spending_stays(redis_url: str) -> None:
    dead = RunBudget(
        connect(redis_url),
        "r",
        Budget(usd=1.0),
        holder="dead",
        recorded_usd=lambda: 0.0,
        call_s=-29.9,  # its reservations expire after a tenth of a second
        keep_s=60,
    )
    assert reserve(dead, 0.4) is None
    dead.settle(0.4, 0.4)
    assert reserve(dead, 0.5) is None
    successor = purse(redis_url, "b")
    assert reserve(successor, 0.6) is None
    successor.settle(0.6, 0.6)
    assert reserve(successor, 0.01) == "hard"


def test_without_redis_a_call_waits_until_its_deadline() -> None:
    mine = purse(f"redis://127.0.0.1:{free_port()}/0")
    assert reserve(mine, 0.1, wait_s=0.3) == "expired"


WORKER = """
import sys, threading, time
from oyer.config.reward import Budget
from oyer.tasks.coordination.budget import RunBudget
from oyer.protocol.redis_client import connect
url, holder = sys.argv[1:]
redis = connect(url)
purse = RunBudget(redis, "r", Budget(usd=1.0), holder=holder, recorded_usd=lambda: 0.0, call_s=5, keep_s=60)

def call(cost):
    while purse.reserve(0.01, first_sample=True, deadline=time.time() + 60) is None:
        redis.incrbyfloat("really-spent", cost)
        purse.settle(0.01, cost)

threads = [threading.Thread(target=call, args=(0.002 + 0.001 * i,)) for i in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
purse.report()
"""


def test_processes_together_spend_the_budget_and_no_more(redis_url: str) -> None:
    processes = [
        subprocess.Popen([sys.executable, "-c", WORKER, redis_url, f"w{i}"]) for i in range(3)
    ]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    with redis.Redis.from_url(redis_url) as client:
        spent = float(client.get("really-spent") or 0)
        assert 0.99 - 1e-9 <= spent <= 1.0 + 1e-9
        state = client.hgetall("oyer:budget:1:r")
    assert int(state[b"spent"]) == pytest.approx(spent * 1e9)
    assert not [field for field in state if field.startswith(b"h:")]
