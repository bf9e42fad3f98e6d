"""Traces of whole batches: a real trainer, real workers, and a receiver of OTLP over HTTP."""

from collections import Counter
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from oyer.demo.judge_server import JudgeServer
from oyer.demo.request_log import RequestEntry
from oyer.demo.responses import Action
from oyer.manager import RewardManager
from oyer.manager.backend.connection import backend as connection
from oyer.telemetry import tracing
from tests.support.otlp_receiver import ReceivedSpan, Receiver, otlp_receiver
from tests.support.rollouts import rollout
from tests.support.scripted_backend import scripted_backend
from tests.support.waiting import wait_until

EVENT = "gen_ai.evaluation.result"
PRODUCER, CONSUMER, CLIENT = 4, 5, 3
Traced = tuple[RewardManager, JudgeServer, Receiver]


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Traced]:
    """A backend whose trainer and workers send spans to a receiver."""
    with otlp_receiver() as receiver, pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        folder = tmp_path_factory.mktemp("traced")
        with scripted_backend(folder, tracing="spans", reuse="off") as (manager, judge):
            judge.set_plan(Action(text="Final score: 7"))
            yield manager, judge, receiver
        tracing.stop()


def counts(spans: list[ReceivedSpan]) -> Counter[str]:
    return Counter(one.name for one in spans)


def named(spans: list[ReceivedSpan], name: str) -> list[ReceivedSpan]:
    return [one for one in spans if one.name == name]


def test_a_small_batch_is_one_trace_from_submit_to_combine(traced: Traced) -> None:
    manager, judge, receiver = traced
    future = manager.submit([rollout("small 0"), rollout("small 1")], run="traced", step=3)
    assert future.result(60).judge_scores.tolist() == [7, 7]
    wanted = {"oyer.submit": 1, "oyer.judge": 1, "chat m": 2, "oyer.combine": 1}
    spans = receiver.wait_for(future.batch_id, lambda found: counts(found) == wanted)
    assert len({one.trace_id for one in spans}) == 1
    (submit,), (judged,), (combine,) = (
        named(spans, name) for name in ("oyer.submit", "oyer.judge", "oyer.combine")
    )
    assert (submit.parent_id, judged.parent_id, combine.parent_id) == (
        "",
        submit.span_id,
        submit.span_id,
    )
    assert (submit.kind, judged.kind, combine.kind) == (PRODUCER, CONSUMER, CONSUMER)
    assert (submit.service, judged.service) == ("oyer-trainer", "oyer-worker")
    assert submit.attributes["oyer.run"] == "traced"
    assert judged.attributes["oyer.step"] == 3
    for attempt in named(spans, "chat m"):
        assert attempt.parent_id == judged.span_id
        assert attempt.kind == CLIENT
        assert judged.began_ns <= attempt.began_ns < attempt.ended_ns
    address = urlsplit(judge.base_url)
    assert (
        attempt.attributes.items()
        >= {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "openai",
            "gen_ai.request.model": "m",
            "gen_ai.response.model": "m",
            "http.response.status_code": 200,
            "server.address": address.hostname,
            "server.port": address.port,
            "oyer.judge": "q",
            "oyer.attempt": 1,
        }.items()
    )
    assert attempt.attributes["gen_ai.usage.input_tokens"] > 0
    assert attempt.attributes["gen_ai.usage.output_tokens"] > 0
    ((name, evaluation),) = attempt.events
    assert name == EVENT
    assert evaluation["gen_ai.evaluation.name"] == "q"
    assert evaluation["gen_ai.evaluation.score.value"] == 7
    assert evaluation["gen_ai.evaluation.score.label"] == "scored"


def test_no_text_of_a_rollout_or_a_judge_is_sent(traced: Traced) -> None:
    manager, _, receiver = traced
    future = manager.submit([rollout("confidential words")], run="traced")
    future.result(60)
    spans = receiver.wait_for(future.batch_id, lambda found: counts(found)["oyer.combine"] == 1)
    assert counts(spans)["chat m"] == 1
    assert b"confidential" not in receiver.raw
    assert b"Final score" not in receiver.raw


def test_the_tasks_of_a_chord_continue_the_trace(traced: Traced) -> None:
    manager, _, receiver = traced
    rollouts = [rollout(f"chord {i}") for i in range(80)]
    future = manager.submit(rollouts, run="traced")
    future.result(60)
    spans = receiver.wait_for(
        future.batch_id,
        lambda found: counts(found)["oyer.combine"] == 1 and counts(found)["chat m"] == 80,
    )
    (submit,) = named(spans, "oyer.submit")
    chunks = named(spans, "oyer.judge")
    assert len(chunks) > 1
    assert {one.parent_id for one in (*chunks, *named(spans, "oyer.combine"))} == {submit.span_id}
    assert sum(one.attributes["oyer.rollouts"] for one in chunks) == 80


def test_a_retry_links_to_the_attempt_before_it(traced: Traced) -> None:
    manager, judge, receiver = traced

    def fails_once(arrival: RequestEntry) -> Action:
        if arrival.sequence == 0:
            return Action(status=503)
        return Action(text="Final score: 7")

    judge.set_plan(fails_once)
    judge.reset()
    future = manager.submit([rollout("flaky")], run="traced")
    assert future.result(60).judge_scores.tolist() == [7]
    spans = receiver.wait_for(future.batch_id, lambda found: counts(found)["chat m"] == 2)
    first, second = sorted(named(spans, "chat m"), key=lambda one: one.attributes["oyer.attempt"])
    assert first.failed
    assert first.attributes["http.response.status_code"] == 503
    assert first.attributes["error.type"]
    assert first.events == []
    assert first.links == []
    assert not second.failed
    assert second.links == [first.span_id]
    assert [name for name, _ in second.events] == [EVENT]


def test_a_resubmission_is_a_trace_of_its_own_that_links_to_the_first(traced: Traced) -> None:
    manager, judge, receiver = traced
    judge.set_plan(Action(text="Final score: 7", hold=True))
    judge.reset()
    future = manager.submit([rollout("again")], run="traced")
    judge.wait_until(lambda log: len(log) >= 1)
    source = connection(*manager._broker)
    source.resubmit(future.batch_id, "a test")
    # A task that starts after the other one has ended finds no payloads, and judges nothing.
    wait_until(lambda: source.redis.hlen("unacked") == 2, "both submissions are being judged")
    judge.release()
    future.result(60)
    spans = receiver.wait_for(
        future.batch_id,
        lambda found: counts(found)["oyer.submit"] == 2 and counts(found)["oyer.judge"] == 2,
    )
    first, second = sorted(named(spans, "oyer.submit"), key=lambda one: one.began_ns)
    assert first.links == []
    assert second.links == [first.span_id]
    assert second.trace_id != first.trace_id
    assert second.attributes["oyer.submission"] == 2
    assert second.attributes["oyer.why"] == "a test"
    parents = {one.parent_id for one in named(spans, "oyer.judge")}
    assert parents == {first.span_id, second.span_id}
