"""Single flight: one process at a time calls for a request, also after the owner dies."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from redis import Redis

from oyer.protocol.redis_client import connect
from oyer.tasks.coordination.reply_cache import CachedReply, ReplyCache
from oyer.tasks.coordination.single_flight import SingleFlight
from tests.support import services

REPLY = CachedReply(text="8", finish_reason="stop", model="m", usage={}, at_s=0.0)
TTL_S = 3.0
"""Renewed every second, which a busy machine may delay."""
HOLDER = """
import sys, time
from oyer.tasks.coordination.single_flight import SingleFlight
from oyer.protocol.redis_client import connect
flight = SingleFlight(connect(sys.argv[1]), "killed", claim_ttl_s=1.5)
assert flight.claim(["k"]) == {"k": True}
print("holding", flush=True)
time.sleep(3600)
"""
PAYER = """
import json, sys, time
from gevent import monkey; monkey.patch_all()
from concurrent.futures import ThreadPoolExecutor
from oyer.tasks.coordination.reply_cache import CachedReply, ReplyCache
from oyer.tasks.coordination.single_flight import SingleFlight
from oyer.protocol.redis_client import connect
url, owner = sys.argv[1:]
redis = connect(url)
flight, cache = SingleFlight(redis, owner), ReplyCache(redis, 60)


def judge(key):
    while True:
        if flight.claim([key])[key]:
            redis.incr("paid:" + key)
            time.sleep(0.2)
            cache.keep(key, CachedReply(text=owner, finish_reason="stop", model="m", usage={},
                                       at_s=0.0))
            flight.release(key)
        elif flight.wait(key, time.time() + 30) == "expired":
            return None
        reply = cache.get_many([key])
        if reply:
            return reply[key].text

input()
with ThreadPoolExecutor(40) as pool:
    print(json.dumps(list(pool.map(judge, [f"k{i % 10}" for i in range(40)]))))
"""


def keep(client: Redis, key: str) -> None:
    """Cache a reply at once."""
    cache = ReplyCache(client, 60)
    cache.keep(key, REPLY)


@pytest.fixture
def client(redis_url: str) -> Iterator[Redis]:
    with connect(redis_url) as opened:
        yield opened


@pytest.fixture
def first(client: Redis) -> Iterator[SingleFlight]:
    flight = SingleFlight(client, "first", claim_ttl_s=TTL_S)
    yield flight
    flight.close()


@pytest.fixture
def second(client: Redis) -> Iterator[SingleFlight]:
    flight = SingleFlight(client, "second", claim_ttl_s=TTL_S)
    yield flight
    flight.close()


def soon() -> float:
    return time.time() + 20


def test_one_of_two_processes_gets_the_claim(first: SingleFlight, second: SingleFlight) -> None:
    assert first.claim(["a", "b"]) == {"a": True, "b": True}
    assert second.claim(["b", "c"]) == {"b": False, "c": True}


def test_a_wait_ends_once_the_reply_is_cached(
    client: Redis, first: SingleFlight, second: SingleFlight
) -> None:
    first.claim(["k"])
    with ThreadPoolExecutor() as pool:
        verdict = pool.submit(second.wait, "k", soon())
        keep(client, "k")
        first.release("k")
        assert verdict.result() == "done"


def test_waits_end_if_the_owner_failed_and_one_waiter_takes_over(
    first: SingleFlight, second: SingleFlight
) -> None:
    first.claim(["k"])
    with ThreadPoolExecutor() as pool:
        verdicts = [pool.submit(flight.wait, "k", soon()) for flight in (first, second, second)]
        first.release("k")
        assert {verdict.result() for verdict in verdicts} == {"free"}
    claims = [flight.claim(["k"])["k"] for flight in (second, second, first)]
    assert claims == [True, False, False]


def test_waiting_ends_at_the_deadline(first: SingleFlight, second: SingleFlight) -> None:
    first.claim(["k"])
    assert first.wait("k", time.time() + 0.1) == "expired"
    assert second.wait("k", time.time() + 0.1) == "expired"
    assert second.wait("k", time.time() - 1) == "expired"


def test_a_claim_is_renewed_while_its_owner_lives(
    first: SingleFlight, second: SingleFlight
) -> None:
    first.claim(["k"])
    assert second.wait("k", time.time() + 2 * TTL_S) == "expired"
    assert second.claim(["k"]) == {"k": False}


def test_a_request_with_a_cached_reply_cannot_be_claimed(
    client: Redis, first: SingleFlight
) -> None:
    keep(client, "k")
    assert first.claim(["k"]) == {"k": False}
    assert first.wait("k", soon()) == "done"


def test_an_owner_that_lost_its_claim_does_not_delete_its_successors(
    client: Redis, first: SingleFlight, second: SingleFlight
) -> None:
    first.claim(["k", "other"])
    client.delete("oyer:flight:k")
    assert second.claim(["k"]) == {"k": True}
    first.release("k")
    first.release("other")
    assert second.wait("other", soon()) == "free"
    assert first.claim(["k"]) == {"k": False}


def test_a_wait_for_the_own_process_follows_the_new_owner(
    client: Redis, first: SingleFlight, second: SingleFlight
) -> None:
    first.claim(["k"])
    with ThreadPoolExecutor() as pool:
        verdict = pool.submit(first.wait, "k", soon())
        client.delete("oyer:flight:k")
        second.claim(["k"])
        keep(client, "k")
        second.release("k")
        assert verdict.result() == "done"


def test_a_killed_owners_request_is_taken_over_by_exactly_one(
    redis_url: str, client: Redis, first: SingleFlight, second: SingleFlight
) -> None:
    argv = [sys.executable, "-c", HOLDER, redis_url]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "holding\n"
        assert second.claim(["k"]) == {"k": False}
        holder.kill()

    def follow(flight: SingleFlight) -> bool:
        while (verdict := flight.wait("k", soon())) == "free":
            if flight.claim(["k"])["k"]:
                keep(client, "k")
                flight.release("k")
                return True
        assert verdict == "done"
        return False

    with ThreadPoolExecutor() as pool:
        paid = list(pool.map(follow, [first, first, second, second]))
    assert paid.count(True) == 1


def test_forty_identical_calls_in_each_of_three_processes_cause_one_call(
    redis_url: str, client: Redis
) -> None:
    argv = [sys.executable, "-c", PAYER, redis_url]
    processes = [
        subprocess.Popen([*argv, f"p{i}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for i in range(3)
    ]
    outputs: list[str] = []
    threads = [
        threading.Thread(target=lambda p=process: outputs.append(p.communicate("go\n")[0]))
        for process in processes
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    answers = [json.loads(output) for output in outputs]
    assert answers[0] == answers[1] == answers[2]
    assert None not in answers[0]
    assert [client.get(f"paid:k{i}") for i in range(10)] == [b"1"] * 10


def test_without_redis_every_process_calls_and_it_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with connect(f"redis://127.0.0.1:{services.free_port()}/0") as nowhere:
        flight = SingleFlight(nowhere, "w", claim_ttl_s=0.3)
        assert flight.claim(["a", "b", "a"]) == {"a": True, "b": True}
        assert flight.claim(["a"]) == {"a": True}
        assert flight.wait("a", soon()) == "free"
        flight.release("a")
        flight.close()
    assert caplog.text.count("Redis cannot be reached") == 1


def test_an_expired_claim_is_not_held_any_more(client: Redis) -> None:
    stopped = SingleFlight(client, "stopped", claim_ttl_s=600)
    assert stopped.claim(["k", "other"]) == {"k": True, "other": True}
    assert stopped.holds("k")
    # As after a pause longer than the time to live: the claim has expired unrenewed.
    client.delete("oyer:flight:k")
    stopped._renewed_s -= 1200
    assert not stopped.holds("k")
    assert stopped.holds("other")
    assert stopped.claim(["k"]) == {"k": True}
    assert stopped.holds("k")
    stopped.close()


def test_while_redis_is_unreachable_a_claim_counts_as_held() -> None:
    with services.redis_server() as url:
        flight = SingleFlight(connect(url), "alone", claim_ttl_s=600)
        assert flight.claim(["k"]) == {"k": True}
    flight._renewed_s -= 1200
    assert flight.holds("k")
    flight.close()
