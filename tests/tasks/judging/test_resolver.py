"""Answers from the cache, the record, another process and calls, with in-memory parts."""

import json
import time
from dataclasses import replace

import pytest
import redis

from oyer.protocol.redis_client import connect
from oyer.protocol.status import Status
from oyer.tasks.coordination.reply_cache import ReplyCache
from oyer.tasks.coordination.single_flight import SingleFlight
from oyer.tasks.endpoint.types import Failure, Reply
from tests.support.resolver_doubles import FAILURE, NO_JSON, REPLY, Bench, kept, reply, stored


def test_a_cached_reply_is_parsed_again_without_a_call() -> None:
    bench = Bench()
    bench.cache.keep(bench.key, kept("Final score: 6"))
    [answer] = bench.resolver.known([bench.job]).values()
    assert (answer.source, answer.status, answer.model) == ("cache", Status.SCORED, "m-kept")
    assert answer.parsed is not None
    assert answer.parsed.score == 6
    assert answer.attempts == ()
    assert bench.looked_up == []


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


@pytest.mark.parametrize(
    ("result", "status"),
    [
        (FAILURE, Status.UNAVAILABLE),
        (reply("I like it."), Status.UNPARSEABLE),
        (reply("Final score: 42"), Status.UNPARSEABLE),
        (reply("", refusal="No."), Status.REFUSED),
        (reply("Final score: 7", finish_reason="length"), Status.TRUNCATED),
        (reply("Final score: 7", finish_reason="content_filter"), Status.REFUSED),
    ],
)
def test_a_failure_is_a_status_that_is_not_cached_and_its_claim_is_released(
    result: Reply | Failure, status: Status
) -> None:
    bench = Bench(result)
    answer = bench.claimed()
    assert (answer.source, answer.status) == ("called", status)
    assert answer.error
    assert len(answer.attempts) == 1
    assert bench.cache.replies == {}
    assert bench.flight.released == [bench.key]
    assert bench.flight.held == set()


def test_a_claim_is_released_even_if_the_call_raises() -> None:
    bench = Bench()
    with pytest.raises(IndexError):
        bench.claimed()
    assert bench.flight.released == [bench.key]


def test_an_endpoint_missing_on_this_worker_is_a_status() -> None:
    bench = Bench(endpoint="gone")
    answer = bench.claimed()
    assert (answer.source, answer.status) == ("none", Status.REJECTED)
    assert answer.error == "endpoint 'gone' is not in the configuration of this worker"


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


def test_a_scope_separates_the_replies_of_two_runs() -> None:
    first, second = Bench(REPLY, scope="run:a"), Bench(scope="run:b")
    first.claimed()
    second.cache.replies = first.cache.replies
    assert second.resolver.known([second.job]) == {}
    assert first.resolver.known([first.job])[first.key].source == "cache"
    assert first.key not in first.cache.replies


def test_after_an_endpoint_refuses_json_output_it_is_not_requested_again() -> None:
    bench = Bench(NO_JSON, REPLY, REPLY, structured=True)
    answer = bench.claimed()
    assert answer.status is Status.SCORED
    assert [attempt.number for attempt in answer.attempts] == [1, 2]
    assert [dict(one.refused) for one in bench.client.requests] == [{}, {"response_format": None}]
    other = bench.jobs("43")[0]
    assert bench.resolver.answer(other, claimed=True).status is Status.SCORED
    assert bench.client.requests[2].refused == {"response_format": None}


def test_a_reply_without_a_verdict_causes_a_re_ask() -> None:
    bench = Bench(reply("I like it."), reply("Final score: 7"), reasks=1)
    answer = bench.claimed()
    assert answer.parsed is not None
    assert (answer.status, answer.parsed.score) == (Status.SCORED, 7)
    assert answer.text == "Final score: 7"
    assert [attempt.number for attempt in answer.attempts] == [1, 2]
    assert (answer.prompt_tokens, answer.completion_tokens) == (24, 6)
    assert bench.client.requests[1].messages[-2] == {"role": "assistant", "content": "I like it."}
    assert bench.cache.replies[bench.key].text == "Final score: 7"


def test_re_asks_end_at_the_configured_number() -> None:
    vague = [reply(f"Vague {i}.") for i in range(3)]
    bench = Bench(*vague, reasks=2)
    answer = bench.claimed()
    assert answer.status is Status.UNPARSEABLE
    assert answer.text == "Vague 2."
    assert [attempt.number for attempt in answer.attempts] == [1, 2, 3]
    assert bench.cache.replies == {}


def test_a_failed_re_ask_leaves_the_earlier_reply() -> None:
    bench = Bench(reply("I like it."), FAILURE, reasks=1)
    answer = bench.claimed()
    assert (answer.status, answer.text) == (Status.UNPARSEABLE, "I like it.")
    assert [attempt.http_status for attempt in answer.attempts] == [200, 500]
    assert bench.cache.replies == {}


@pytest.mark.parametrize(
    "again",
    [
        FAILURE,
        reply("", refusal="No."),
        reply("", finish_reason="length"),
        reply("", finish_reason="error"),
    ],
    ids=["failed", "refused", "cut", "broken_off"],
)
def test_verdicts_that_are_enough_without_the_re_ask_are_cached(again: Reply | Failure) -> None:
    verdicts = [{"name": "a", "reason": "r", "verdict": True}]
    partial = reply(json.dumps({"verdicts": verdicts}))
    criteria = [{"name": name, "text": "t"} for name in ("a", "b")]
    bench = Bench(partial, again, reasks=1, criteria=criteria, min_valid_criteria=1)
    answer = bench.claimed()
    assert answer.parsed is not None
    assert (answer.status, answer.parsed.score, answer.error) == (Status.SCORED, 1.0, None)
    assert len(answer.attempts) == 2
    [cached] = bench.resolver.known([bench.job]).values()
    assert cached.source == "cache"
    assert cached.parsed is not None
    assert cached.parsed.score == 1.0


@pytest.mark.parametrize(
    "result", [reply("Final score: 7", finish_reason="length"), reply("", refusal="No."), FAILURE]
)
def test_only_a_complete_reply_causes_a_re_ask(result: Reply | Failure) -> None:
    bench = Bench(result, reasks=3)
    bench.claimed()
    assert len(bench.client.requests) == 1


def test_a_field_refused_under_both_names_is_omitted() -> None:
    no_length = replace(NO_JSON, refused={"max_tokens": "max_completion_tokens"})
    neither = replace(NO_JSON, refused={"max_completion_tokens": "max_tokens"})
    bench = Bench(no_length, neither, REPLY)
    answer = bench.claimed()
    assert answer.status is Status.SCORED
    assert [attempt.number for attempt in answer.attempts] == [1, 2, 3]
    assert [dict(one.refused) for one in bench.client.requests] == [
        {},
        {"max_tokens": "max_completion_tokens"},
        {"max_tokens": None},
    ]


def test_an_endpoint_that_refuses_a_field_again_is_rejected() -> None:
    bench = Bench(NO_JSON, NO_JSON)
    answer = bench.claimed()
    assert (answer.status, answer.error) == (Status.REJECTED, NO_JSON.message)
    assert len(answer.attempts) == 2


@pytest.mark.parametrize(
    ("text", "thought"),
    [("", True), ("<think>First, the sum", False), ("<think>a</think>\n", True)],
)
def test_the_error_of_max_tokens_spent_on_thinking_names_the_fix(text: str, thought: bool) -> None:
    bench = Bench(reply(text, finish_reason="length", thought=thought), max_tokens=99)
    answer = bench.claimed()
    assert answer.status is Status.TRUNCATED
    assert "max_tokens (99) on thinking" in str(answer.error)
    assert "reasoning_effort" in str(answer.error)


@pytest.mark.parametrize(("text", "thought"), [("", False), ("The first step is", True)])
def test_the_error_of_another_cut_reply_does_not_mention_thinking(text: str, thought: bool) -> None:
    answer = Bench(reply(text, finish_reason="length", thought=thought)).claimed()
    assert answer.status is Status.TRUNCATED
    assert "thinking" not in str(answer.error)


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
