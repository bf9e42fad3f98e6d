"""Answers from the cache, the record and calls, with in-memory parts."""

import time
from dataclasses import replace

import pytest

from oyer.protocol.status import Status
from tests.support.resolver_doubles import REPLY, Bench, kept, reply, stored


def test_a_cached_reply_is_parsed_again_without_a_call() -> None:
    bench = Bench()
    bench.cache.keep(bench.key, kept("Final score: 6"))
    [answer] = bench.resolver.known([bench.job]).values()
    assert (answer.source, answer.status, answer.model) == ("cache", Status.SCORED, "m-kept")
    assert answer.parsed is not None
    assert answer.parsed.score == 6
    assert answer.attempts == ()
    assert bench.looked_up == []


def test_a_reply_cached_for_the_same_judgement_brings_its_attempt() -> None:
    """The worker that sent it may have died before it recorded it."""
    bench = Bench(REPLY)
    first, equal = bench.jobs("42", "42")
    ours = replace(bench.resolver, batch_id="ours")
    sent = ours.answer(first, claimed=True)
    [again] = ours.known([first, equal]).values()
    assert (again.source, again.text) == ("called", REPLY.text)
    assert again.attempts == tuple(replace(one, restored=True) for one in sent.attempts)
    assert (again.prompt_tokens, again.completion_tokens) == (12, 3)
    [elsewhere] = ours.known([equal]).values()
    [other] = bench.resolver.known([first]).values()
    for reused in (elsewhere, other):
        assert (reused.source, reused.attempts) == ("cache", ())


def test_a_cached_reply_to_a_re_ask_brings_no_attempt() -> None:
    bench = Bench(reply("I like it."), REPLY, reasks=1)
    ours = replace(bench.resolver, batch_id="ours")
    assert len(ours.answer(bench.job, claimed=True).attempts) == 2
    [again] = ours.known([bench.job]).values()
    assert (again.source, again.attempts) == ("cache", ())


def test_uncached_requests_are_looked_up_on_record_in_one_query() -> None:
    bench = Bench()
    first, second, third = bench.jobs("1", "2", "3")
    assert first.key is not None
    assert second.key is not None
    bench.cache.keep(first.key, kept())
    bench.recorded[second.key] = stored()
    known = bench.resolver.known([first, second, third])
    assert {key: answer.source for key, answer in known.items()} == {
        first.key: "cache",
        second.key: "record",
    }
    assert known[second.key].model == "m-stored"
    assert bench.looked_up == [[second.key, third.key]]


@pytest.mark.parametrize("text", ["", None, "I like it.", "Final score: 42"])
def test_a_stored_reply_that_the_parser_cannot_read_is_not_an_answer(text: str | None) -> None:
    bench = Bench()
    bench.recorded[bench.key] = stored(reply=text)
    if text:
        bench.cache.keep(bench.key, kept(text))
    assert bench.resolver.known([bench.job]) == {}


def test_a_chunk_without_requests_looks_nothing_up() -> None:
    bench = Bench()
    assert bench.resolver.known(bench.jobs("", " ")) == {}
    assert bench.looked_up == []


def test_a_reply_is_cached_before_its_permit_is_released() -> None:
    """A worker killed between the two would cost a call more than may be in flight."""
    bench = Bench(reply("I like it."), REPLY, reasks=1)
    bench.claimed()
    assert bench.limiter.kept_at_release == [[], [REPLY.text]]


def test_a_claimed_request_is_called_for_cached_and_released() -> None:
    bench = Bench(REPLY)
    answer = bench.claimed()
    assert (answer.source, answer.status, answer.text) == ("called", Status.SCORED, REPLY.text)
    assert answer.parsed is not None
    assert answer.parsed.score == 8
    assert answer.model == "m-2026"
    assert (answer.prompt_tokens, answer.completion_tokens, len(answer.attempts)) == (12, 3, 1)
    assert answer.started_at is not None
    assert answer.finished_at is not None
    assert bench.cache.replies[bench.key].text == REPLY.text
    assert bench.flight.released == [bench.key]


def test_a_cancelled_batch_makes_no_call() -> None:
    bench = Bench()
    bench.cancelled = True
    answer = bench.claimed()
    assert (answer.source, answer.status) == ("none", Status.EXPIRED)
    assert answer.error == "the batch was cancelled"
    assert bench.client.requests == []
    assert bench.flight.held == set()


def test_after_the_deadline_no_call_is_made() -> None:
    bench = Bench()
    late = replace(bench.resolver.caller, deadline=time.time() - 1)
    answer = replace(bench.resolver, caller=late).answer(bench.job, claimed=True)
    assert answer.status is Status.EXPIRED
    assert answer.error == "the batch's deadline has passed"
    assert bench.client.requests == []


def test_a_scope_separates_the_replies_of_two_runs() -> None:
    first, second = Bench(REPLY, scope="run:a"), Bench(scope="run:b")
    first.claimed()
    second.cache.replies = first.cache.replies
    assert second.resolver.known([second.job]) == {}
    assert first.resolver.known([first.job])[first.key].source == "cache"
    assert first.key not in first.cache.replies


@pytest.mark.parametrize("where", ["cache", "record"])
def test_a_stored_reply_of_a_model_no_longer_served_is_not_used(where: str) -> None:
    bench = Bench()
    if where == "cache":
        bench.cache.replies[bench.key] = kept()
    else:
        bench.recorded[bench.key] = stored(model="m-kept")
    assert bench.key in bench.resolver.known([bench.job])
    bench.lessons.report("m", "m-kept")
    assert bench.key in bench.resolver.known([bench.job])
    bench.lessons.report("m", "m-new")
    assert bench.resolver.known([bench.job]) == {}
    assert bench.cache.replies == {}
    # A judge with a version does not depend on the reported model.
    [named] = bench.jobs("42", version="1")
    assert named.key is not None
    bench.cache.replies[named.key] = kept()
    assert named.key in bench.resolver.known([named])
