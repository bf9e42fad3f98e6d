"""Second requests for slow calls: real workers, an endpoint whose replies are scripted, the record."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from oyer.demo.judge_server import JudgeServer
from oyer.demo.request_log import RequestEntry
from oyer.demo.responses import Action, named
from oyer.manager import RewardBatch, RewardManager
from tests.integration.test_main_job import read
from tests.support.limiters import give, limiter, take
from tests.support.rollouts import rollouts_of
from tests.support.waiting import wait_until

AFTER_S = 0.2
MANY = 6
"""`max_in_flight` of most endpoints."""
SIX = {"text": "Final score: 6"}
HOLD: dict[str, Any] = {**SIX, "hold": True}
BROKEN = {"name": "server_error", "hold": True}
PRICE = {"prompt_usd": 1000, "completion_usd": 1000}

Judged = Callable[..., RewardBatch]


@pytest.fixture(scope="module")
def judge() -> Iterator[JudgeServer]:
    with JudgeServer() as server:
        yield server


@pytest.fixture(scope="module")
def other_judge() -> Iterator[JudgeServer]:
    with JudgeServer() as server:
        yield server


@pytest.fixture(scope="module")
def manager(
    judge: JudgeServer, other_judge: JudgeServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RewardManager]:
    """A backend of one judge process, with an endpoint for each case."""
    folder = tmp_path_factory.mktemp("hedging")
    every = {
        "base_url": judge.base_url,
        "max_in_flight": MANY,
        "timeout_s": 60,
        "max_attempts": 2,
        "prices": {"m": PRICE},
        "hedge": {"after": AFTER_S, "at_most": "100%"},
    }
    urls = [{"url": judge.base_url}, {"url": other_judge.base_url}]
    endpoints: dict[str, Any] = {
        "every": every,
        "full": {**every, "max_in_flight": 2},
        "some": {**every, "max_in_flight": 64, "hedge": {"after": AFTER_S, "at_most": "10%"}},
        "slow": {**every, "max_in_flight": 32, "hedge": {"after": "p90", "at_most": 0.5}},
        "two": {**every, "base_url": None, "base_urls": urls},
        "two full": {**every, "base_url": None, "base_urls": urls, "max_in_flight": 2},
        "none": {**every, "hedge": None},
    }
    config = {
        "endpoints": endpoints,
        "judges": [{"name": "q", "endpoint": "every", "model": "m", "reasks": 0}],
        "store": {"url": f"sqlite:///{folder / 'oyer.db'}"},
    }
    with RewardManager.local(config, folder=folder, judge_processes=1) as opened:
        yield opened


@pytest.fixture(autouse=True)
def _fresh(judge: JudgeServer, other_judge: JudgeServer) -> None:
    for server in (judge, other_judge):
        server.set_plan({"default": SIX})
        server.reset()


def on(manager: RewardManager, endpoint: str = "every", **changes: Any) -> RewardManager:
    raw = manager.config.model_dump(mode="json")
    judge = {**raw["judges"][0], "endpoint": endpoint, "max_tokens": 100}
    return RewardManager({**raw, "judges": [judge], **changes})


def attempts_of(manager: RewardManager, batch: RewardBatch) -> list[dict[str, Any]]:
    query = "SELECT * FROM attempts WHERE batch_id = :id ORDER BY rollout_index, number"
    return read(manager, query, id=batch.id)


def plan(*actions: dict[str, Any]) -> dict[str, Any]:
    """Answer the first requests in turn, and the others with a score."""
    rules = [{"when": {"sequence": i}, "then": action} for i, action in enumerate(actions)]
    return {"rules": rules, "default": SIX}


def cut_off(arrival: RequestEntry) -> bool:
    """Whether the client closed the connection before the reply."""
    return arrival.finished_at_s is not None and arrival.status is None


def check_permits(manager: RewardManager, judge: JudgeServer, tag: str) -> None:
    """Check that as many calls as the limit allows can be in flight: no permit was lost."""
    judge.set_plan({"default": HOLD})
    judge.reset()
    future = on(manager).submit(rollouts_of(f"permits {tag}", MANY))
    judge.wait_until(lambda log: len(log) == MANY)
    judge.release()
    assert future.result(timeout_s=90).statuses == ["scored"] * MANY


def test_the_second_request_replaces_a_slow_first_one(
    manager: RewardManager, judge: JudgeServer
) -> None:
    judge.set_plan(plan(HOLD))
    batch = on(manager).submit(rollouts_of("slow first", 1)).result(timeout_s=90)
    assert batch.judge_scores.tolist() == [6.0]
    judge.wait_until(lambda log: len(log) == 2 and cut_off(log[0]))
    first, second = attempts_of(manager, batch)
    assert (first["number"], first["hedge"], first["error_class"]) == (1, None, "Cancelled")
    assert (second["number"], second["hedge"], second["error_class"]) == (2, True, None)
    assert (first["http_status"], second["http_status"]) == (None, 200)
    assert first["latency_ms"] >= AFTER_S * 1000
    # The cancelled request counts with the tokens of the other one's reply.
    assert first["prompt_tokens"] == second["prompt_tokens"] > 0
    assert first["cost_usd"] == second["cost_usd"] > 0
    (judgement,) = read(manager, "SELECT * FROM judgements WHERE batch_id = :id", id=batch.id)
    assert judgement["attempts"] == 2
    assert judgement["cost_usd"] == pytest.approx(2 * second["cost_usd"])
    assert batch.usage.calls == 2
    check_permits(manager, judge, "slow first")


def test_the_second_request_is_cancelled_if_the_first_one_is_answered(
    manager: RewardManager, judge: JudgeServer
) -> None:
    judge.set_plan(plan(HOLD, {"name": "black_hole"}))
    future = on(manager).submit(rollouts_of("second loses", 1))
    judge.wait_until(lambda log: len(log) == 2)
    judge.release()
    batch = future.result(timeout_s=90)
    assert batch.judge_scores.tolist() == [6.0]
    judge.wait_until(lambda log: len(log) == 2 and cut_off(log[1]))
    first, second = attempts_of(manager, batch)
    assert (first["hedge"], first["error_class"], first["http_status"]) == (None, None, 200)
    assert (second["hedge"], second["error_class"]) == (True, "Cancelled")
    assert second["cost_usd"] == first["cost_usd"] > 0
    check_permits(manager, judge, "second loses")


@pytest.mark.parametrize("failing", [0, 1])
def test_the_other_request_is_awaited_if_one_fails(
    manager: RewardManager, judge: JudgeServer, other_judge: JudgeServer, failing: int
) -> None:
    """The two requests go to two servers, so that the test ends one alone."""
    arrived: list[JudgeServer] = []

    def plan_of(server: JudgeServer) -> Callable[[RequestEntry], Action]:
        def plan(_: RequestEntry) -> Action:
            arrived.append(server)
            if len(arrived) - 1 == failing:
                return named("server_error", hold=True)
            return Action(text="Final score: 6", hold=len(arrived) <= 2)

        return plan

    for server in (judge, other_judge):
        server.set_plan(plan_of(server))
    two = on(manager, "two full")
    future = two.submit(rollouts_of(f"request {failing} fails", 1))
    for server in (judge, other_judge):
        server.wait_until(lambda log: len(log) == 1)
    servers = list(arrived)
    # A call that waits begins with the permit of the failed request, once its worker has read it.
    later = two.submit(rollouts_of(f"after the failure of {failing}", 1))
    servers[failing].release()
    wait_until(lambda: len(arrived) == 3, "the waiting call begins")
    servers[1 - failing].release()
    batch = future.result(timeout_s=90)
    assert batch.judge_scores.tolist() == [6.0]
    rows = attempts_of(manager, batch)
    assert [row["hedge"] for row in rows] == [None, True]
    assert [row["http_status"] for row in rows] == [[500, 200], [200, 500]][failing]
    assert later.result(timeout_s=90).statuses == ["scored"]
    assert len(arrived) == 3


def test_a_call_is_retried_once_both_requests_have_failed(
    manager: RewardManager, judge: JudgeServer
) -> None:
    judge.set_plan(plan(BROKEN, BROKEN))
    future = on(manager).submit(rollouts_of("both fail", 1))
    judge.wait_until(lambda log: len(log) == 2)
    judge.release()
    batch = future.result(timeout_s=90)
    assert batch.judge_scores.tolist() == [6.0]
    rows = attempts_of(manager, batch)
    assert [row["number"] for row in rows] == [1, 2, 3]
    assert [row["http_status"] for row in rows] == [500, 500, 200]
    assert [row["hedge"] for row in rows] == [None, True, None]
    # Two requests of one attempt: `max_attempts` allows another one.
    assert [row["retry_wait_s"] is None for row in rows] == [True, False, True]
    check_permits(manager, judge, "both fail")


def test_a_full_endpoint_gets_no_second_request(manager: RewardManager, judge: JudgeServer) -> None:
    judge.set_plan({"default": {**SIX, "latency_s": 4 * AFTER_S}})
    url = str(manager.config.broker.url)
    with limiter(url, "another worker", endpoint="full", max_in_flight=2) as other:
        permits = take(other, 1, 60)
        assert len(permits) == 1
        batch = on(manager, "full").submit(rollouts_of("full", 1)).result(timeout_s=90)
        give(other, permits)
    assert [row["hedge"] for row in attempts_of(manager, batch)] == [None]
    # One call in flight leaves room for a second request.
    judge.set_plan(plan(HOLD))
    judge.reset()
    batch = on(manager, "full").submit(rollouts_of("not full", 1)).result(timeout_s=90)
    assert [row["hedge"] for row in attempts_of(manager, batch)] == [None, True]


def test_at_most_a_part_of_the_calls_gets_a_second_request(
    manager: RewardManager, judge: JudgeServer
) -> None:
    """The part counts over batches: 15 and 15 calls have 3 second requests, not 1 and 1."""
    judge.set_plan({"default": {**SIX, "latency_s": 10 * AFTER_S}})
    hedges = []
    for tag in ("first part", "second part", "third part"):
        batch = on(manager, "some").submit(rollouts_of(tag, 15)).result(timeout_s=90)
        hedges.append(sum(bool(row["hedge"]) for row in attempts_of(manager, batch)))
    assert hedges == [1, 2, 1]


def test_a_second_request_goes_to_another_url(
    manager: RewardManager, judge: JudgeServer, other_judge: JudgeServer
) -> None:
    for server in (judge, other_judge):
        server.set_plan({"default": HOLD})
    future = on(manager, "two").submit(rollouts_of("urls", 3))
    for server in (judge, other_judge):
        server.wait_until(lambda log: len(log) == 3)
    for server in (judge, other_judge):
        server.release()
    batch = future.result(timeout_s=90)
    rows = attempts_of(manager, batch)
    assert len(rows) == 6
    assert all(
        {a["url_index"], b["url_index"]} == {0, 1}
        for a, b in zip(rows[::2], rows[1::2], strict=True)
    )
    assert len(judge.requests) == len(other_judge.requests) == 3


def test_a_second_request_that_the_budget_cannot_pay_is_not_sent(
    manager: RewardManager, judge: JudgeServer
) -> None:
    slow = {"default": {**SIX, "latency_s": 4 * AFTER_S}}
    # A call reserves 100 tokens for the reply at 0.001 USD each, and its prompt.
    for usd, answers, sent in ((1.2, slow, 1), (100.0, plan(HOLD), 2)):
        judge.set_plan(answers)
        judge.reset()
        priced = on(manager, budget={"usd": usd})
        batch = priced.submit(rollouts_of(f"usd {usd}", 1), run=f"usd {usd}").result(timeout_s=90)
        assert batch.statuses == ["scored"]
        assert len(judge.requests) == sent


def test_no_second_request_is_sent_shortly_before_the_deadline(
    manager: RewardManager, judge: JudgeServer
) -> None:
    judge.set_plan({"default": {**SIX, "latency_s": 8 * AFTER_S}})
    late = on(manager, deadline_s=2 * AFTER_S)
    batch = late.submit(rollouts_of("late", 1)).result(timeout_s=90)
    assert len(judge.requests) <= 1
    assert batch.statuses in (["scored"], ["expired"])


def test_an_endpoint_without_hedge_gets_one_request_for_each_call(
    manager: RewardManager, judge: JudgeServer
) -> None:
    judge.set_plan({"default": {**SIX, "latency_s": 4 * AFTER_S}})
    batch = on(manager, "none").submit(rollouts_of("none", 2)).result(timeout_s=90)
    assert [row["hedge"] for row in attempts_of(manager, batch)] == [None, None]


def test_a_call_slower_than_a_quantile_of_the_recent_ones_gets_a_second_request(
    manager: RewardManager, judge: JudgeServer
) -> None:
    judge.set_plan({"default": {**SIX, "latency_s": 0.05}})
    slow = on(manager, "slow")
    slow.submit(rollouts_of("quick", 40)).result(timeout_s=90)
    judge.reset()
    judge.set_plan({"rules": [{"when": {"sequence": 0}, "then": HOLD}], "default": SIX})
    batch = slow.submit(rollouts_of("one held", 1)).result(timeout_s=90)
    assert batch.judge_scores.tolist() == [6.0]
    assert [row["hedge"] for row in attempts_of(manager, batch)] == [None, True]


def test_many_second_requests_leave_no_permit_and_no_connection_behind(
    manager: RewardManager, judge: JudgeServer
) -> None:
    """Every first request is held; each call ends by its second one."""
    first_of_body = {"when": {"first_of_body": 1}, "then": HOLD}
    judge.set_plan({"rules": [first_of_body], "default": SIX})
    total = 10 * (MANY // 2)
    kept = len(judge._endpoint.connections)
    # One after the other, so that permits are left for second requests.
    for i in range(0, total, MANY // 2):
        future = on(manager).submit(rollouts_of(f"many {i}", MANY // 2))
        assert future.result(timeout_s=90).statuses == ["scored"] * (MANY // 2)
    judge.wait_until(lambda log: sum(cut_off(arrival) for arrival in log) == total)
    assert len(judge.requests) == 2 * total
    # Cancelled ones are closed; each of the others is kept for the next call.
    assert len(judge._endpoint.connections) <= kept + MANY
    check_permits(manager, judge, "many")
