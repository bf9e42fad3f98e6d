"""The context of a worker process, on a real Redis and a real database."""

from pathlib import Path
from typing import Any

import pytest

from oyer.config.reward import RewardConfig, plan_of
from oyer.protocol.batch import Columns, Manifest
from oyer.protocol.errors import InvalidConfig, MessageRefused
from oyer.protocol.rollout import Rollout, encode_rollouts
from oyer.tasks.worker import context as context_module
from oyer.tasks.worker.context import WorkerContext


def context_of(**config: Any) -> WorkerContext:
    return WorkerContext(RewardConfig.model_validate(config))


@pytest.fixture
def context(redis_url: str) -> WorkerContext:
    return context_of(broker={"url": redis_url})


def post(context: WorkerContext, batch_id: str = "b", **changes: Any) -> None:
    columns = Columns(
        group_ids=["g"],
        base_score=[1.0],
        correct=[None],
        truncated=[False],
        response_tokens=[1],
    )
    manifest = Manifest(
        batch_id=batch_id,
        run="r",
        step=None,
        submitted_at=1.0,
        deadline=2.0,
        plan={**plan_of(RewardConfig()), **changes},
        chunks=[(0, 1)],
    )
    rollouts = encode_rollouts([Rollout(prompt="p", response="r")])
    context.batches.post(manifest, columns, [rollouts])


def test_a_plan_is_validated_once_per_batch(context: WorkerContext) -> None:
    post(context)
    _, plan = context.manifest("b")
    assert context.manifest("b")[1] is plan
    post(context, "c")
    assert context.manifest("c")[1] is not plan
    assert context.manifest("b")[1] is plan


def test_a_batch_posted_with_another_plan_is_validated_again(context: WorkerContext) -> None:
    post(context)
    assert context.manifest("b")[1].tokenizer is None
    post(context, tokenizer="some/tokenizer")
    assert context.manifest("b")[1].tokenizer == "some/tokenizer"
    post(context, unknown_key=1)
    with pytest.raises(MessageRefused, match="unknown_key"):
        context.manifest("b")


def test_only_the_latest_plans_are_kept(
    context: WorkerContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(context_module, "_MAX_BATCHES", 2)
    for batch_id in ("a", "b", "c"):
        post(context, batch_id)
    first = {batch_id: context.manifest(batch_id)[1] for batch_id in ("a", "b", "c")}
    assert context.manifest("c")[1] is first["c"]
    assert context.manifest("b")[1] is first["b"]
    assert context.manifest("a")[1] is not first["a"]


def test_calls_stop_while_a_batch_is_ended_and_resume_when_it_is_reopened(
    context: WorkerContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(context_module, "_ENDING_AGE_S", 0.0)
    assert not context.must_stop("b")
    context.batches.end("b", "cancelled", "by a test")
    assert context.must_stop("b")
    assert not context.must_stop("c")
    context.batches.reopen("b")
    assert not context.must_stop("b")
    context.shutdown.requested = True
    assert context.must_stop("b")


def test_calls_go_on_while_redis_is_unreachable() -> None:
    assert not context_of(broker={"url": "redis://127.0.0.1:1/0"}).must_stop("b")


def test_a_missing_broker_is_named() -> None:
    with pytest.raises(InvalidConfig, match=r"^broker\.url: is not set"):
        _ = context_of().broker_url


def test_closing_a_database_leaves_no_wal_file(tmp_path: Path) -> None:
    context = context_of(store={"url": f"sqlite:///{tmp_path}/oyer.db"})
    context.close()
    assert list(tmp_path.iterdir()) == []
    context.write(lambda conn: conn.exec_driver_sql("CREATE TABLE t (x INTEGER)"))
    rows = context.read(lambda conn: conn.exec_driver_sql("SELECT * FROM t").all())
    assert rows == []
    context.close()
    assert [file.name for file in tmp_path.iterdir()] == ["oyer.db"]


def test_a_worker_holds_two_rounds_of_a_flows_calls(redis_url: str) -> None:
    endpoint = {"base_url": "http://127.0.0.1:9/v1"}
    services = context_of(
        broker={"url": redis_url},
        endpoints={
            "a": {**endpoint, "max_in_flight": 100},
            "b": {**endpoint, "max_in_flight": 10},
        },
    ).judging
    few = services.lookahead(["unknown"])
    assert services.lookahead(["a"]) == few + 200
    assert services.lookahead(["a", "b"]) == few + 220
    # A trainer of the last release does not name its endpoints.
    assert services.lookahead([]) == few + 220
