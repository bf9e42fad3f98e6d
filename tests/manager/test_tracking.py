"""The metrics of a batch, its sample of rollouts, and the option `track`."""

import asyncio
import math
import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from oyer.demo.judge_server import JudgeServer
from oyer.manager import InvalidInput, RewardBatch, RewardFuture, RewardManager, Rollout, tracking
from oyer.manager.tracking.samples import MAX_TEXT_CHARS, sample_table
from oyer.manager.training import is_first_process
from oyer.manager.trl import RewardFunction, reward_functions
from oyer.manager.verl import LengthPenaltyRewardManager
from oyer.protocol.batch_result import MAX_SAMPLED_ROWS, sampled_rows
from tests.manager.conftest import outcome_of
from tests.support.scripted_backend import by_response, rollout
from tests.support.verl_batch import manager_of, place_of, rows
from tests.support.verl_data import Tokens


def batch_of(n: int = 4, **changed: Any) -> RewardBatch:
    return RewardBatch.of(outcome_of("b", n, **changed))


def floats(*values: float) -> Any:
    return np.array(values, dtype=np.float32)


def test_the_metrics_of_a_batch_have_stable_names_and_finite_values() -> None:
    batch = batch_of(
        rewards=floats(1, 1, 3, math.nan),
        mask=np.array([True, True, True, False]),
        statuses=["scored", "scored", "scored", "timeout"],
        scores={"q": floats(2, 4, 6, math.nan)},
        groups=[0, 0, 1, 1],
        judge_latency_ms={"p50": 250.0, "p95": 900.0},
    )
    metrics = replace(batch, trainer_wait_s=1.5).metrics()
    assert {name: metrics[name] for name in metrics if not name.startswith("oyer/missing/")} == {
        "oyer/rollouts": 4,
        "oyer/reward_mean": pytest.approx(5 / 3),
        "oyer/reward_std": pytest.approx(np.std([1, 1, 3])),
        "oyer/judge_score": 8,
        "oyer/missing": 0.25,
        "oyer/calls": 4,
        "oyer/prompt_tokens": 40,
        "oyer/completion_tokens": 8,
        "oyer/cost_usd": 0.5,
        "oyer/q": 4,
        "oyer/q_present": 0.75,
        "oyer/zero_spread_groups": 1,  # the other one has a single trainable rollout
        "oyer/judge_latency_p50_s": 0.25,
        "oyer/judge_latency_p95_s": 0.9,
        "oyer/trainer_wait_s": 1.5,
    }
    failures = {name for name in metrics if name.startswith("oyer/missing/")}
    assert failures == {name for name in batch_of().metrics() if name.startswith("oyer/missing/")}
    assert {name: metrics[name] for name in failures if metrics[name]} == {
        "oyer/missing/timeout": 0.25
    }
    assert all(type(value) is float for value in metrics.values())


def test_a_batch_without_rewards_has_no_metric_that_is_not_a_number() -> None:
    nothing = floats(math.nan, math.nan)
    metrics = batch_of(
        2, rewards=nothing, judge_scores=nothing, mask=nothing > 0, statuses=["expired"] * 2
    ).metrics("x/")
    assert all(map(math.isfinite, metrics.values()))
    assert metrics["x/missing"] == metrics["x/missing/expired"] == 1
    assert "x/reward_mean" not in metrics


def test_the_sample_is_the_same_in_every_process_and_of_limited_size() -> None:
    rows = sampled_rows("b", 1000)
    assert len(set(rows)) == MAX_SAMPLED_ROWS
    assert rows == sampled_rows("b", 1000) != sampled_rows("c", 1000)
    assert sorted(sampled_rows("b", 5)) == [0, 1, 2, 3, 4]
    table = sample_table(batch_of(5), 3, step=7)
    assert [row[2] for row in table.rows] == sampled_rows("b", 5)[:3]
    assert all(len(row) == len(table.columns) for row in table.rows)


def test_messages_and_long_texts_are_readable_in_the_sample() -> None:
    messages = [{"role": "user", "content": "hello"}]
    rollouts = [Rollout(prompt=messages, response="x" * 10_000)] * 2
    (row,) = sample_table(replace(batch_of(2), rollouts=rollouts), 1).rows
    assert row[3] == "user: hello"
    assert "characters cut" in row[4]
    assert len(row[4]) < MAX_TEXT_CHARS + 100


def test_a_judged_batch_has_its_rollouts_replies_latencies_and_wait(
    backend: RewardManager, judge: JudgeServer
) -> None:
    judge.set_plan(by_response({"good": 9, "bad": 2}))
    rollouts = [rollout("good"), rollout("bad")]
    future = backend.submit(rollouts, run="tracking")
    batch = future.result(60)
    assert list(batch.rollouts) == rollouts
    assert batch.reasons == {0: "Final score: 9", 1: "Final score: 2"}
    metrics = batch.metrics()
    assert metrics["oyer/calls"] == 2
    assert 0 < metrics["oyer/judge_latency_p50_s"] <= metrics["oyer/judge_latency_p95_s"]
    assert metrics["oyer/trainer_wait_s"] > 0
    reopened = RewardFuture.from_ticket(future.ticket).result(60)
    assert (reopened.reasons, reopened.judge_latency_ms) == (batch.reasons, batch.judge_latency_ms)
    assert reopened.rollouts == ()
    again = backend.submit(rollouts, run="tracking").result(60)
    assert again.reasons == batch.reasons
    assert "oyer/judge_latency_p50_s" not in again.metrics()


def test_batches_of_several_chunks_bring_the_replies_of_all(
    backend: RewardManager, judge: JudgeServer
) -> None:
    batch = backend.submit([rollout(f"chunk {i}") for i in range(40)], run="tracking").result(60)
    assert batch.reasons == dict.fromkeys(range(40), "Final score: 5")


class Writer:
    """Collects what is written, under the module name of TensorBoard's writer."""

    def __init__(self) -> None:
        self.scalars: dict[str, tuple[float, int | None]] = {}
        self.texts: dict[str, str] = {}
        self.batches = 0

    def add_scalar(self, name: str, value: float, step: int | None) -> None:
        self.scalars[name] = value, step

    def add_text(self, name: str, text: str, step: int | None) -> None:
        self.texts[name] = text

    def flush(self) -> None:
        self.batches += 1


Writer.__module__ = "torch.utils.tensorboard.writer"


def columns(tag: str, n: int = 2) -> dict[str, Any]:
    """Return what TRL passes to a reward function."""
    rows = {"prompts": ["p"] * n, "completions": [f"{tag} {i}" for i in range(n)]}
    return {**rows, "completion_ids": [[1]] * n}


def base(completions: list[str], **_: Any) -> list[float]:
    return [1.0] * len(completions)


def test_the_trl_adapter_logs_each_batch(backend: RewardManager, judge: JudgeServer) -> None:
    writer = Writer()
    RewardFunction(backend, num_generations=2, track=writer)(**columns("tracked"))
    value, step = writer.scalars["oyer/q"]
    assert value == pytest.approx(5)
    assert step is None
    assert "Final score: 5" in writer.texts["oyer/samples"]


def test_functions_that_share_a_submission_log_it_once(
    backend: RewardManager, judge: JudgeServer
) -> None:
    writer = Writer()
    functions = reward_functions(backend, num_generations=2, base_score=base, track=writer)
    assert len(functions) == 2
    given = columns("shared")

    async def gather() -> None:
        await asyncio.gather(*(one(**given) for one in functions))

    asyncio.run(gather())
    assert writer.batches == 1
    assert "shared 0" in writer.texts["oyer/samples"]


@pytest.mark.parametrize("name", ["workers", "in the process"])
def test_the_verl_adapter_logs_each_batch(
    backend: RewardManager, judge: JudgeServer, name: str
) -> None:
    writer, tokens = Writer(), Tokens()
    manager = manager_of(tokens, track=writer, **place_of(name, backend, judge))
    data = rows(tokens, f"tracked {name}")
    data.meta_info.update(global_steps=7)
    manager(data)
    assert writer.scalars["oyer/quality"] == (5, 7)
    assert f"tracked {name} answer 0." in writer.texts["oyer/samples"]
    data.meta_info.update(validate=True)
    manager(data)
    assert writer.scalars["oyer/eval/quality"] == (5, 7)
    assert writer.batches == 2


def test_only_the_first_rank_logs(
    backend: RewardManager, judge: JudgeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = Writer()
    function = RewardFunction(backend, num_generations=2, track=writer)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert not is_first_process()
    function(**columns("second rank"))
    assert writer.scalars == {}
    monkeypatch.setenv("RANK", "0")
    function(**columns("first rank"))
    assert "oyer/q" in writer.scalars


def test_evaluations_are_logged_under_a_name_of_their_own() -> None:
    writer = Writer()
    tracking.Tracking(writer).log(batch_of(), step=3, split="eval")
    value, step = writer.scalars["oyer/eval/reward_mean"]
    assert value == pytest.approx(1.8)
    assert step == 3


def test_a_tracker_that_fails_does_not_end_the_training(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Writer, "add_scalar", full)
    tracking.Tracking(Writer()).log(batch_of(), step=3, split=None)
    assert "batch b was not logged" in caplog.text
    assert "disk full" in caplog.text


@pytest.mark.parametrize("to", ["wanbd", object(), 3])
def test_what_is_no_tracker_is_refused_by_name(backend: RewardManager, to: Any) -> None:
    with pytest.raises(InvalidInput, match=r"to: .* is not a tracker; give wandb, mlflow"):
        tracking.log(batch_of(), to=to)
    with pytest.raises(InvalidInput, match=r"track: .* is not a tracker"):
        RewardFunction(backend, track=to)
    with pytest.raises(InvalidInput, match=r"track: .* is not a tracker"):
        LengthPenaltyRewardManager(object(), compute_score=lambda **_: 0.0, track=to)


@pytest.mark.parametrize("size", [-1, tracking.MAX_SAMPLE + 1, True, "4"])
def test_a_sample_out_of_range_is_refused(size: Any) -> None:
    with pytest.raises(InvalidInput, match=r"sample: is .*; give a number from 0 to 64"):
        tracking.log(batch_of(), to=Writer(), sample=size)


@pytest.mark.parametrize("name", ["wandb", "mlflow", "tensorboard", "trackio"])
def test_a_missing_library_is_named_with_the_command_that_installs_it(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (name, "torch.utils.tensorboard", "tensorboardX"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InvalidInput, match=f"{name} cannot be imported .*pip install {name}"):
        tracking.log(batch_of(), to=name)
    with pytest.raises(InvalidInput, match=f"^track: {name} cannot be imported"):
        tracking.Tracking(name)


def test_importing_the_trackers_loads_none_of_them() -> None:
    code = "import sys, oyer.manager.tracking; print(sys.modules.keys() & {*sys.argv[1:]})"
    names = ["wandb", "mlflow", "tensorboard", "tensorboardX", "trackio", "torch", "celery"]
    done = subprocess.run(
        [sys.executable, "-c", code, *names], capture_output=True, text=True, check=True
    )
    assert done.stdout == "set()\n"
