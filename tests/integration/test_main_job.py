"""Whole batches from `submit` to rewards and record: real workers, Redis, SQL, HTTP."""

import asyncio
import json
import multiprocessing
import pickle
import statistics
import threading
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sqlalchemy import text

from oyer.demo.judge_server import JudgeServer
from oyer.demo.responses import Action, named
from oyer.manager import BatchCancelled, MissingScores, RewardFuture, RewardManager, Rollout
from oyer.models.engine import open_engine, reading
from tests.support.paths import DATA
from tests.support.rollouts import rollouts_of

Sibling = Callable[..., RewardManager]


def read(manager: RewardManager, query: str, **values: Any) -> list[dict[str, Any]]:
    """Run a query on a manager's store."""
    engine = open_engine(manager.config.store.url)
    with reading(engine) as conn:
        rows = [dict(row) for row in conn.execute(text(query), values).mappings()]
    engine.dispose()
    return rows


def band(length: int, lengths: list[int]) -> float:
    """The default median-band penalty, computed independently."""
    middle = statistics.median(lengths)
    off = abs(length - middle) / middle
    return float(min(1.0, max(0.0, (off - 0.3) / 0.2)))


def test_rewards_come_back_in_the_order_submitted(
    backend: RewardManager, judge: JudgeServer
) -> None:
    judge.set_plan(lambda arrival: Action(text=f"Final score: {_number_in(arrival) % 10 + 1}"))
    rollouts = rollouts_of("order", 40)
    batch = backend.submit(rollouts, run="order", step=3).result(timeout_s=60)
    assert batch.judge_scores.tolist() == [i % 10 + 1 for i in range(40)]
    assert batch.statuses == ["scored"] * 40
    assert batch.mask.all()
    expected = [1.0 + 0.1 * (i % 10 + 1) - _penalty(rollouts, i) for i in range(40)]
    np.testing.assert_allclose(batch.rewards, expected, atol=1e-5)
    np.testing.assert_allclose(
        sum(batch.terms[n] for n in ("base_score", "judge", "length_penalty")), expected, atol=1e-5
    )
    assert batch.usage.calls == 40
    rows = read(backend, "SELECT * FROM judge_history WHERE batch_id = :id", id=batch.id)
    assert len(rows) == 40
    assert {row["run"] for row in rows} == {"order"}
    assert {row["step"] for row in rows} == {3}
    assert all(row["reply"].startswith("Final score:") for row in rows)


def test_a_rollout_without_a_positive_base_score_is_not_judged(
    backend: RewardManager, judge: JudgeServer
) -> None:
    rollouts = rollouts_of("gated", 8, base_score=0.0)
    batch = backend.submit(rollouts, run="gated").result(timeout_s=60)
    assert batch.statuses == ["gated"] * 8
    assert np.isnan(batch.judge_scores).all()
    assert judge.requests == []
    expected = [-_penalty(rollouts, i) for i in range(8)]
    np.testing.assert_allclose(batch.rewards, expected, atol=1e-5)
    assert batch.mask.all()


@pytest.mark.parametrize(
    ("action", "status"),
    [
        ("unauthorized", "rejected"),
        ("not_found", "rejected"),
        ("context_length_exceeded", "context_overflow"),
        ("refusal", "refused"),
        ("content_filter", "refused"),
        ("cut_reply", "truncated"),
        (Action(text="I like it."), "unparseable"),
        (Action(text="Final score: 42"), "unparseable"),
        (Action(text=""), "unparseable"),
        (named("black_hole"), "timeout"),
        ("server_error", "unavailable"),
        ("half_json", "unavailable"),
        ("reset", "unavailable"),
        (named("rate_limited", retry_after_s=0), "rate_limited"),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{value.fault or value.text!r}"[:24],
)
def test_each_failure_is_a_status_and_never_a_number(
    sibling: Sibling, backend: RewardManager, judge: JudgeServer, action: Any, status: str
) -> None:
    config = backend.config.model_dump(mode="json")
    endpoint = "impatient" if status == "timeout" else "fake"
    own = {"name": f"q-{status}", "endpoint": endpoint}
    manager = sibling(judges=[{**config["judges"][0], **own}])
    spoiled = "rollout that fails"
    judge.set_plan(
        lambda a: _action(action) if spoiled in _user_text(a) else Action(text="Final score: 7")
    )
    rollouts = rollouts_of(f"fail-{action}", 4)
    rollouts.append(
        Rollout(
            prompt=spoiled, response=f"{action}.", group_id="x", base_score=1.0, response_tokens=5
        )
    )
    batch = manager.submit(rollouts, run="failures").result(timeout_s=120)
    assert batch.statuses == ["scored"] * 4 + [status]
    assert np.isnan(batch.rewards[4])
    assert np.isnan(batch.judge_scores[4])
    assert batch.mask.tolist() == [True] * 4 + [False]
    (row,) = read(
        backend, "SELECT * FROM judgements WHERE batch_id = :id AND rollout_index = 4", id=batch.id
    )
    assert row["status"] == status
    assert row["score"] is None
    assert row["error"]


def test_transient_failures_are_retried(backend: RewardManager, judge: JudgeServer) -> None:
    judge.set_plan(
        {
            "rules": [{"when": {"first_of_body": 1}, "then": "unavailable"}],
            "default": {"text": "Final score: 6"},
        }
    )
    batch = backend.submit(rollouts_of("retry", 4)).result(timeout_s=60)
    assert batch.judge_scores.tolist() == [6.0] * 4
    assert batch.usage.calls == 8
    rows = read(
        backend,
        "SELECT number, http_status, error_class FROM attempts WHERE batch_id = :id ORDER BY rollout_index, number",
        id=batch.id,
    )
    assert [(row["number"], row["http_status"]) for row in rows] == [(1, 503), (2, 200)] * 4


def test_failure_policies_say_what_a_missing_score_becomes(
    sibling: Sibling, judge: JudgeServer
) -> None:
    judge.set_plan(
        lambda a: (
            named("not_found") if "number 3 " in _user_text(a) else Action(text="Final score: 4")
        )
    )

    def score(tag: str, **rules: Any) -> Any:
        return sibling(reward=rules, length=[]).submit(rollouts_of(tag, 4)).result(timeout_s=60)

    by_value = score("value", on_missing={"value": 9})
    assert by_value.rewards[3] == pytest.approx(1.9)
    assert np.isnan(by_value.judge_scores[3])
    assert score("mean", on_missing="group_mean").rewards[3] == pytest.approx(1.4)
    with pytest.raises(MissingScores) as raised:
        score("raise", on_missing="raise")
    assert raised.value.batch.rewards[:3] == pytest.approx([1.4] * 3)
    with pytest.raises(MissingScores, match="max_failed_fraction"):
        score("outage", max_failed_fraction=0.1)


def test_two_managers_with_different_settings_share_one_backend(
    sibling: Sibling, judge: JudgeServer
) -> None:
    judge.set_plan(Action(text="Final score: 5"))
    strong = {"name": "s", "endpoint": "fake", "model": "m", "weight": 1.0}
    heavy = sibling(judges=[strong], length=[])
    light = sibling(judges=[{**strong, "name": "l", "weight": 0.01}])
    futures = [m.submit(rollouts_of(f"two-{i}", 4)) for i, m in enumerate((heavy, light))]
    assert futures[0].result(timeout_s=60).rewards.tolist() == [6.0] * 4
    assert futures[1].result(timeout_s=60).terms["judge"] == pytest.approx([0.05] * 4)


def test_an_endpoint_that_workers_do_not_know_is_rejected_by_status(sibling: Sibling) -> None:
    judge = {"name": "q", "endpoint": "elsewhere", "model": "m"}
    batch = (
        sibling(endpoints={}, judges=[judge]).submit(rollouts_of("nowhere", 4)).result(timeout_s=60)
    )
    assert batch.statuses == ["rejected"] * 4
    assert "elsewhere" in batch.first_errors["rejected"]


def test_result_past_its_timeout_says_what_is_missing_and_the_future_stays_usable(
    backend: RewardManager, judge: JudgeServer
) -> None:
    judge.set_plan(Action(text="Final score: 5", hold=True))
    future = backend.submit(rollouts_of("late", 4))
    judge.wait_until(lambda log: len(log) == 4)
    with pytest.raises(TimeoutError, match="4 of 4 verdicts are missing"):
        future.result(timeout_s=0.2)
    assert not future.done()
    assert future.progress() == (0, 4)
    judge.release()
    assert future.result(timeout_s=60).statuses == ["scored"] * 4
    assert future.done()
    assert future.progress() == (4, 4)


def test_awaiting_a_batch_does_not_block_the_event_loop(
    backend: RewardManager, judge: JudgeServer
) -> None:
    judge.set_plan(Action(text="Final score: 5", hold=True))

    async def main() -> int:
        future = backend.submit(rollouts_of("await", 4))
        waiting = asyncio.ensure_future(_awaited(future))
        await asyncio.to_thread(judge.wait_until, lambda log: len(log) == 4)
        assert not waiting.done()
        judge.release()
        return len(await waiting)

    assert asyncio.run(main()) == 4


def test_callbacks_threads_and_tickets_see_the_same_result(
    backend: RewardManager, judge: JudgeServer
) -> None:
    judge.set_plan(Action(text="Final score: 5"))
    future = backend.submit(rollouts_of("many", 4))
    called = threading.Event()
    future.add_done_callback(lambda f: called.set() if f is future else None)
    assert called.wait(60)
    reopened = RewardFuture.from_ticket(future.ticket).result(timeout_s=60)
    unpickled = pickle.loads(pickle.dumps(future)).result(timeout_s=60)
    for other in (reopened, unpickled):
        np.testing.assert_array_equal(other.rewards, future.result().rewards)


def test_a_forked_process_can_wait_for_the_result(
    backend: RewardManager, judge: JudgeServer
) -> None:
    judge.set_plan(Action(text="Final score: 5", hold=True))
    future = backend.submit(rollouts_of("fork", 4))
    judge.wait_until(lambda log: len(log) == 4)
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(
        target=lambda: sender.send(future.result(timeout_s=60).rewards.tolist())
    )
    child.start()
    judge.release()
    assert receiver.poll(60)
    assert receiver.recv() == future.result(timeout_s=60).rewards.tolist()
    child.join()


def test_a_cancelled_batch_ends_at_once_and_begins_no_further_call(
    backend: RewardManager, judge: JudgeServer
) -> None:
    judge.set_plan(Action(text="Final score: 5", hold=True))
    future = backend.submit(rollouts_of("cancel", 512))
    judge.wait_until(lambda log: len(log) == 32)
    assert future.cancel()
    with pytest.raises(BatchCancelled):
        future.result(timeout_s=5)
    assert not future.cancel()
    # Workers hear of the end while these calls are in flight.
    judge.set_plan(Action(text="Final score: 5", latency_s=1.5))
    judge.release()
    after = backend.submit(rollouts_of("after the cancelled", 4)).result(timeout_s=60)
    assert after.statuses == ["scored"] * 4
    assert len(judge.requests) < 512


def test_duplicate_rollouts_cost_one_call(backend: RewardManager, judge: JudgeServer) -> None:
    judge.set_plan(Action(text="Final score: 5"))
    one = rollouts_of("same", 1)[0]
    batch = backend.submit([one] * 64, run="same").result(timeout_s=60)
    assert len(judge.requests) == 1
    assert batch.judge_scores.tolist() == [5.0] * 64
    again = backend.submit([one] * 8, run="another").result(timeout_s=60)
    assert len(judge.requests) == 1
    assert again.usage.calls == 0


def test_the_real_rollouts_are_scored_as_recomputed(
    backend: RewardManager, judge: JudgeServer
) -> None:
    judge.set_plan(lambda a: Action(text=f"Reasons.\n\nFinal score: {_hash_score(_judged(a))}"))
    lines = (DATA / "gsm8k_rollouts.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    rollouts = [
        Rollout(
            prompt=row["prompt"],
            response=row["response"],
            group_id=row["group_id"],
            base_score=1.0 if row["correct"] else 0.0,
            response_tokens=len(row["response"].split()),
            reference=row["ground_truth"],
        )
        for row in rows
    ]
    batch = backend.submit(rollouts, run="gsm8k").result(timeout_s=240)
    lengths = defaultdict(list)
    for row in rows:
        lengths[row["group_id"]].append(len(row["response"].split()))
    for i, row in enumerate(rows):
        expected = -band(len(row["response"].split()), lengths[row["group_id"]])
        if row["correct"]:
            assert batch.judge_scores[i] == _hash_score(row["response"])
            expected += 1.0 + 0.1 * _hash_score(row["response"])
        assert batch.statuses[i] == ("scored" if row["correct"] else "gated")
        assert batch.rewards[i] == pytest.approx(expected, abs=1e-5), i
    (count,) = read(backend, "SELECT count(*) AS n FROM rewards WHERE batch_id = :id", id=batch.id)
    assert count["n"] == len(rows) == 5276
    asked = {(row["prompt"], row["response"]) for row in rows if row["correct"]}
    assert len(judge.requests) == len(asked)


def _number_in(arrival: Any) -> int:
    return int(_user_text(arrival).partition("the answer number ")[2].split()[0])


def _user_text(arrival: Any) -> str:
    return "\n".join(content for _, content in arrival.messages())


def _judged(arrival: Any) -> str:
    """The response inside the judge's prompt."""
    _, _, rest = _user_text(arrival).partition("## Response to judge\n```\n")
    return rest.partition("\n```")[0]


def _hash_score(text_: str) -> int:
    return sum(text_.encode()) % 10 + 1


def _penalty(rollouts: list[Rollout], i: int) -> float:
    group = [r.response_tokens or 0 for r in rollouts if r.group_id == rollouts[i].group_id]
    return band(rollouts[i].response_tokens or 0, group)


def _action(action: Any) -> Action:
    return action if isinstance(action, Action) else named(action)


async def _awaited(future: RewardFuture) -> Any:
    return await future
