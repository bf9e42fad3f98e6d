"""verl's reward loop when something fails: the same keys, a stated reward, and no exception."""

import asyncio
import math
from typing import Any

import numpy as np
import pytest

from oyer.demo.judge_server import JudgeServer
from oyer.demo.responses import Action, named
from oyer.manager import JudgeOutage, MissingScores
from oyer.manager.score import Score
from oyer.manager.verl import missing_reward
from tests.support.scripted_backend import DEAD_JUDGE, Running
from tests.support.verl_data import Tokens
from tests.support.verl_loop import manager_of, scored, trajectories


@pytest.fixture
def oyer(running: Running) -> dict[str, Any]:
    """The reward configuration, as verl's own configuration holds it in place."""
    return running[0].config.model_dump(mode="json")


@pytest.fixture(scope="module")
def well(running: Running) -> dict[str, Any]:
    """What a rollout that went well comes back as."""
    tokens = Tokens()
    oyer = running[0].config.model_dump(mode="json")
    return scored(manager_of(tokens, oyer), trajectories(tokens, "well", [10]))[0]


def check_stacks(well: dict[str, Any], ill: dict[str, Any]) -> None:
    """Do what verl does with the infos of one step (`AgentLoopWorker._postprocess`)."""
    infos = [well["reward_extra_info"], ill["reward_extra_info"]]
    assert infos[0].keys() == infos[1].keys()
    for key in infos[0]:
        assert np.array([info[key] for info in infos]).dtype != object
    assert np.isfinite([well["reward_score"], ill["reward_score"]]).all()


@pytest.mark.parametrize(
    ("failure", "status"),
    [
        ("rate_limited", "rate_limited"),
        ("dead", "unavailable"),
        ("late", "expired"),
        ("broker", "unavailable"),
        ("surrogate", "rejected"),
        ("tokenizer", "rejected"),
    ],
)
def test_whatever_fails_the_keys_are_the_same_and_the_base_score_is_the_reward(
    judge: JudgeServer, oyer: dict[str, Any], well: dict[str, Any], failure: str, status: str
) -> None:
    tokens = Tokens()
    options: dict[str, Any] = {}
    tag = failure
    if failure == "rate_limited":
        judge.set_plan(named("rate_limited", retry_after_s=0))
    elif failure == "dead":
        oyer = {**oyer, "judges": [DEAD_JUDGE]}
    elif failure == "late":
        judge.set_plan(Action(hold=True))
        options = {"timeout_s": 0.5}
    elif failure == "broker":
        oyer = {**oyer, "broker": {"url": "redis://127.0.0.1:9/0"}}
    elif failure == "surrogate":
        tag = "half a pair \ud83d"
    manager = manager_of(tokens, oyer, **options)
    data = trajectories(tokens, tag, [10])
    if failure == "tokenizer":
        data.batch["responses"] += 1000
    (result,) = scored(manager, data)
    judge.release()
    check_stacks(well, result)
    info = result["reward_extra_info"]
    assert info["judge_status"] == status
    assert info["judge_score"] == info["oyer/quality"] == info["oyer/quality_present"] == 0.0
    assert not info["has_reward"]
    # A row that cannot be read has no base score either.
    assert result["reward_score"] == (0.0 if failure == "tokenizer" else 1.0)


def _raising(**_: Any) -> float:
    raise KeyError("score")


async def _raising_later(**_: Any) -> float:
    raise RuntimeError("later")


@pytest.mark.parametrize(
    "compute_score",
    [
        _raising,
        _raising_later,
        lambda **_: None,
        lambda **_: {"acc": 1.0},
        lambda **_: {"score": None},
        lambda **_: "seven",
        lambda **_: (1.0, 2.0),
        lambda **_: math.nan,
        lambda **_: math.inf,
    ],
)
def test_a_scorer_that_fails_leaves_the_row_without_a_score(
    judge: JudgeServer, oyer: dict[str, Any], well: dict[str, Any], compute_score: Any
) -> None:
    tokens = Tokens()
    manager = manager_of(tokens, oyer, compute_score=compute_score)
    (result,) = scored(manager, trajectories(tokens, "no base", [10]))
    check_stacks(well, result)
    assert result["reward_score"] == 0.0
    assert result["reward_extra_info"]["judge_status"] == "rejected"
    assert judge.requests == []


def test_every_key_of_compute_score_is_passed_on_and_the_same_in_every_row(
    judge: JudgeServer, oyer: dict[str, Any]
) -> None:
    """verl reads the first row's keys from all rows (`AgentLoopWorker._postprocess`)."""
    tokens = Tokens()
    given: list[Any] = [
        {"score": 0.5, "acc": True, "pred": "x", "steps": [1, 2]},
        {"score": 0.25, "pred": "y", "format": np.float32(1), "steps": [1]},
        1,
        KeyError("no verdict"),
    ]

    def compute_score(extra_info: dict[str, Any], **_: Any) -> Any:
        value = given[extra_info["row"]]
        if isinstance(value, Exception):
            raise value
        return value

    manager = manager_of(tokens, oyer, compute_score=compute_score)
    rows = [{"row": i} for i in range(4)]
    data = trajectories(tokens, "dicts", [10] * 4, extra_info=rows)
    infos = [scored(manager, data[i : i + 1])[0]["reward_extra_info"] for i in range(4)]
    columns = {key: [info[key] for info in infos] for key in (*infos[0], "format")}
    assert all(np.array(column).dtype != object for column in columns.values())
    assert columns["base_score"] == [0.5, 0.25, 1.0, 0.0]
    assert columns["acc"] == [1.0, 0.25, 1.0, 0.0]
    assert columns["pred"] == ["x", "y", "", ""]
    assert columns["format"] == [0.0, 1.0, 0.0, 0.0]
    assert columns["steps"] == ["[1, 2]", "[1]", "", ""]


def test_a_slow_rollout_delays_none_that_comes_later(
    judge: JudgeServer, oyer: dict[str, Any]
) -> None:
    judge.set_plan(
        {
            "rules": [{"when": {"matches": "mixed 0\\."}, "then": {"hold": True}}],
            "default": {"text": "Final score: 5"},
        }
    )
    manager = manager_of(Tokens(), oyer)
    data = trajectories(manager.tokenizer, "mixed", [10] * 4)

    async def main() -> tuple[bool, list[float]]:
        slow = asyncio.create_task(manager.run_single(data[0:1]))
        await asyncio.to_thread(judge.wait_until, lambda log: len(log) == 1)
        later = [await manager.run_single(data[i : i + 1]) for i in range(1, 4)]
        waited = not slow.done()
        judge.release()
        return waited, [result["reward_score"] for result in (*later, await slow)]

    waited, rewards = asyncio.run(main())
    assert waited
    assert rewards[:3] == pytest.approx([1.5] * 3)


def test_rollouts_judged_in_time_are_not_lost_with_those_of_their_batch_that_are_late(
    judge: JudgeServer, oyer: dict[str, Any]
) -> None:
    """All calls, 32 at a time, take longer than verl waits."""
    judge.set_plan(Action(text="Final score: 5", latency_s=1.0))
    manager = manager_of(Tokens(), oyer, timeout_s=10)
    results = scored(manager, trajectories(manager.tokenizer, "in time", [10] * 400))
    statuses = {result["reward_extra_info"]["judge_status"] for result in results}
    assert statuses == {"scored", "expired"}


def test_an_overdue_group_is_logged_as_the_cause(
    judge: JudgeServer, oyer: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    tokens = Tokens()
    banded = {**oyer, "length": {"method": "median_band"}}
    late: dict[str, Any] = {"group_timeout_s": 0.3, "on_group_timeout": "error"}
    manager = manager_of(tokens, banded, n=2, **late)
    (result,) = scored(manager, trajectories(tokens, "alone", [10]))
    assert result["reward_extra_info"]["judge_status"] == "expired"
    assert "alone" in caplog.text
    assert "reward_kwargs.oyer.timeout_s" not in caplog.text


def test_a_missing_reward_can_be_a_number_or_an_error(
    judge: JudgeServer, oyer: dict[str, Any]
) -> None:
    dead = {**oyer, "judges": [DEAD_JUDGE]}
    tokens = Tokens()
    (result,) = scored(manager_of(tokens, dead, on_missing=-0.5), trajectories(tokens, "no", [3]))
    assert result["reward_score"] == -0.5
    with pytest.raises(MissingScores, match="unavailable"):
        scored(manager_of(tokens, dead, on_missing="raise"), trajectories(tokens, "none", [3]))
    by_rule = manager_of(tokens, {**dead, "reward": {"on_missing": "raise"}})
    with pytest.raises(MissingScores):
        scored(by_rule, trajectories(tokens, "never", [3]))


def test_an_outage_is_counted_over_the_latest_rollouts_and_not_in_each_batch(
    judge: JudgeServer, oyer: dict[str, Any]
) -> None:
    """A batch may hold a single rollout, of which one failure is all."""
    judge.set_plan(
        {
            "rules": [{"when": {"matches": "share 3\\."}, "then": "not_found"}],
            "default": {"text": "Final score: 5"},
        }
    )
    half = {**oyer, "reward": {"max_failed_fraction": 0.5}}
    manager = manager_of(Tokens(), half)
    data = trajectories(manager.tokenizer, "share", [10] * 8)
    rewards = [scored(manager, data[i : i + 1])[0]["reward_score"] for i in range(8)]
    assert rewards == pytest.approx([1.5] * 3 + [1.0] + [1.5] * 4)
    judge.set_plan(named("not_found"))
    with pytest.raises(JudgeOutage, match="33 of the latest 64 rollouts"):
        scored(manager, trajectories(manager.tokenizer, "outage", [10] * 40))
    never = manager_of(Tokens(), {**oyer, "reward": {"max_failed_fraction": 0.0}})
    with pytest.raises(JudgeOutage, match="rejected"):
        scored(never, trajectories(never.tokenizer, "not one", [10]))


def test_a_missing_reward_is_the_base_score_or_zero_without_one() -> None:
    missing = Score(status="timeout", error="too slow")
    assert missing_reward(Score(status="scored", reward=2.0), 0.7, "raise") == 2.0
    assert missing_reward(missing, 0.7, "base_score") == 0.7
    assert missing_reward(missing, math.nan, "base_score") == 0.0
    assert missing_reward(missing, 0.7, 0.1) == 0.1
    with pytest.raises(MissingScores, match="timeout: too slow"):
        missing_reward(missing, 0.7, "raise")


def test_a_rollout_handed_over_again_joins_the_one_under_way(
    judge: JudgeServer, oyer: dict[str, Any]
) -> None:
    """The V1 trainer numbers a prompt's samples: one number is one sample."""
    tokens = Tokens()
    banded = {**oyer, "length": {"method": "median_band"}}
    manager = manager_of(tokens, banded, n=3)
    data = trajectories(tokens, "twice", [16, 10, 10], session_id=[0, 1, 2])
    rows = [data[0:1], data[0:1], data[1:2], data[2:3]]

    async def main() -> list[dict[str, Any]]:
        return await asyncio.gather(*(manager.run_single(row) for row in rows))

    # Were it two samples, the median would be its own length.
    rewards = [result["reward_score"] for result in asyncio.run(main())]
    assert rewards == pytest.approx([0.5, 0.5, 1.5, 1.5])


def test_validation_comes_in_groups_of_its_own_size(
    judge: JudgeServer, oyer: dict[str, Any]
) -> None:
    """verl does not say which rollouts it validates with; its data sets' `split` does."""
    tokens = Tokens()
    banded = {**oyer, "length": {"method": "median_band"}}
    manager = manager_of(tokens, banded, n=8, val_n=2, timeout_s=30, group_timeout_s=60)
    rows = [{"base": 1.0, "split": "test"}] * 2
    results = scored(manager, trajectories(tokens, "validation", [10, 16], extra_info=rows))
    assert [r["reward_extra_info"]["judge_status"] for r in results] == ["scored"] * 2


def test_token_ids_and_columns_reach_the_length_methods(
    judge: JudgeServer, oyer: dict[str, Any]
) -> None:
    methods = [{"method": "repetition", "ngram_size": 2}, {"method": "lcpo_exact", "alpha": 0.01}]
    manager = manager_of(Tokens(), {**oyer, "length": methods})
    tokens = manager.tokenizer
    # The filler of ten tokens is one token over and over; 30 exceed the requested length by 20.
    row = {"base": 1.0, "target_lengths": np.int64(10)}
    (result,) = scored(manager, trajectories(tokens, "wanted", [30], extra_info=[row]))
    info = result["reward_extra_info"]
    assert info["judge_status"] == "scored"
    assert info["length_term"] < -0.2
    assert info["unshaped_reward"] == pytest.approx(1.5)
