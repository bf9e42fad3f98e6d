"""Requests that another process has claimed: joined, taken over, called for again."""

import pytest
import redis

from oyer.protocol.redis_client import connect
from oyer.protocol.status import Status
from oyer.tasks.coordination.reply_cache import ReplyCache
from oyer.tasks.coordination.single_flight import SingleFlight
from tests.support.resolver_doubles import REPLY, Bench, kept, reply


def test_a_claim_is_released_even_if_the_call_raises() -> None:
    bench = Bench()
    with pytest.raises(IndexError):
        bench.claimed()
    assert bench.flight.released == [bench.key]


def test_another_processs_reply_is_joined_without_a_call() -> None:
    bench = Bench()
    bench.flight.held.add(bench.key)
    bench.flight.ends = [kept("Final score: 6")]
    assert bench.resolver.claim([bench.key]) == {bench.key: False}
    answer = bench.resolver.answer(bench.job, claimed=False)
    assert (answer.source, answer.status) == ("joined", Status.SCORED)
    assert answer.attempts == ()
    assert bench.client.requests == []
    assert bench.flight.released == []


def test_a_request_whose_owner_is_gone_is_taken_over() -> None:
    bench = Bench(REPLY)
    bench.flight.held.add(bench.key)
    bench.flight.ends = ["free"]
    answer = bench.resolver.answer(bench.job, claimed=False)
    assert (answer.source, answer.status) == ("called", Status.SCORED)
    assert bench.flight.released == [bench.key]


def test_a_request_taken_over_by_a_third_worker_is_waited_for_again() -> None:
    bench = Bench()
    bench.flight.ends = ["free", kept("Final score: 6")]
    taken = iter([False])
    bench.flight.claim = lambda keys: {key: next(taken) for key in keys}  # type: ignore[method-assign]  # a neighbour is faster
    assert bench.resolver.answer(bench.job, claimed=False).source == "joined"


def test_a_request_with_a_lost_claim_is_not_called_for_but_waited_for() -> None:
    bench = Bench()
    bench.flight.taken_over.add(bench.key)
    bench.flight.ends = [kept("Final score: 6")]
    answer = bench.claimed()
    assert (answer.source, answer.status, answer.attempts) == ("joined", Status.SCORED, ())
    assert bench.client.requests == []


def test_attempts_made_before_a_claim_was_lost_stay_on_record() -> None:
    bench = Bench(reply("I like it."), reasks=1)
    bench.flight.holds = lambda key: not bench.client.requests  # type: ignore[method-assign]  # lost while it is called
    bench.flight.ends = [kept("Final score: 6")]
    answer = bench.claimed()
    assert (answer.status, len(answer.attempts)) == (Status.UNPARSEABLE, 1)


def test_waiting_ends_at_the_deadline() -> None:
    bench = Bench()
    bench.flight.ends = ["expired"]
    answer = bench.resolver.answer(bench.job, claimed=False)
    assert (answer.source, answer.status) == ("none", Status.EXPIRED)
    assert answer.error == "the batch's deadline has passed"


def test_an_unreadable_cached_reply_is_called_for_again() -> None:
    bench = Bench(REPLY)
    bench.flight.held.add(bench.key)
    bench.flight.ends = [kept("Final score: 42")]
    answer = bench.resolver.answer(bench.job, claimed=False)
    assert (answer.source, answer.status) == ("called", Status.SCORED)
    assert bench.cache.replies[bench.key].text == REPLY.text


def test_an_unreadable_cached_reply_does_not_block_a_request_in_redis(redis_url: str) -> None:
    """An unreadable reply can be neither joined nor claimed: without care, waiting would not end."""
    bench = Bench(REPLY)
    client: redis.Redis = connect(redis_url)
    cache, flight = ReplyCache(client, 60), SingleFlight(client, "owner")
    cache.keep(bench.key, kept("Final score: 42"))
    resolver = bench.resolver_with(cache, flight)
    assert resolver.known([bench.job]) == {}
    assert resolver.claim([bench.key]) == {bench.key: False}
    answer = resolver.answer(bench.job, claimed=False)
    assert (answer.source, answer.status) == ("called", Status.SCORED)
    assert cache.get_many([bench.key])[bench.key].text == REPLY.text
    flight.close()
    client.close()
