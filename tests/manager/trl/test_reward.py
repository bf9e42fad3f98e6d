"""TRL's reward function: judge and length in one, None for the whole row where there is no score."""

import asyncio
import inspect
import math
import pickle
from typing import Any

import numpy as np
import pytest

from oyer.demo.judge_server import JudgeServer
from oyer.demo.responses import Action, named
from oyer.manager import (
    InvalidInput,
    InvalidRollout,
    MissingScores,
    RewardManager,
)
from oyer.manager.score import Score
from oyer.manager.trl import RewardFunction, reward_function
from oyer.manager.trl.columns import TICKETS, log_terms
from tests.support.scripted_backend import DEAD_JUDGE, by_response, sibling, user_text
from tests.support.trl_trainer import Trainer


@pytest.fixture(scope="module")
def backend_changes() -> dict[str, Any]:
    return {"length": {"method": "median_band"}}


def test_it_is_a_real_coroutine_function(backend: RewardManager) -> None:
    """TRL 1.0 to 1.10 never await an async callable of another kind."""
    function = reward_function(backend)
    assert inspect.iscoroutinefunction(function)
    assert function.__name__ == "oyer"
    assert [*inspect.signature(function).parameters] == [
        "prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric",
        "columns",
    ]  # fmt: skip


def test_judge_and_length_are_one_reward(backend: RewardManager, judge: JudgeServer) -> None:
    judge.set_plan(by_response({f"both {i}.": i + 1 for i in range(4)}))
    trainer = Trainer()
    rewards = trainer.rewards(reward_function(backend), "both", [10, 10, 10, 16])
    assert rewards == pytest.approx([0.1, 0.2, 0.3, 0.4 - 1])
    assert trainer.metrics["oyer/judge_score"] == pytest.approx([1, 2, 3, 4])
    assert trainer.metrics["oyer/length_term"] == pytest.approx([0, 0, 0, -1])
    assert trainer.metrics["oyer/missing"] == [0]
    assert trainer.extra["oyer/judge_score"] == pytest.approx([1, 2, 3, 4])
    assert trainer.extra["oyer/judge_status"] == ["scored"] * 4


def test_the_picklable_function_gives_the_same(backend: RewardManager, judge: JudgeServer) -> None:
    copy = pickle.loads(pickle.dumps(RewardFunction(backend, num_generations=4)))
    assert copy.__name__ == "oyer"
    trainer = Trainer()
    assert trainer.rewards(copy, "copy", [10, 10, 10, 16]) == pytest.approx([0.5] * 3 + [-0.5])
    bare = copy(prompts=["p"] * 2, completions=["a.", "b."], completion_ids=[[1]] * 2)
    assert bare == pytest.approx([0.5, 0.5])


def test_a_row_without_a_score_is_none_as_a_whole(
    backend: RewardManager, judge: JudgeServer
) -> None:
    judge.set_plan(
        {
            "rules": [{"when": {"matches": "holes 1\\."}, "then": "not_found"}],
            "default": {"text": "Final score: 5"},
        }
    )
    trainer = Trainer()
    rewards = trainer.rewards(reward_function(backend), "holes", [10, 16, 10, 10])
    assert rewards == [pytest.approx(0.5), None, pytest.approx(0.5), pytest.approx(0.5)]
    assert trainer.metrics["oyer/missing"] == [0.25]
    assert trainer.metrics["oyer/judge_score"] == pytest.approx([5.0] * 3)
    assert trainer.metrics["oyer/q_present"] == [0.75]
    assert trainer.extra["oyer/judge_status"][1] == "rejected"


@pytest.mark.parametrize("failure", ["rate_limited", "dead", "late", "broker"])
def test_a_failing_backend_is_none_for_every_row_and_the_same_metrics(
    backend: RewardManager, judge: JudgeServer, failure: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    well, ill = Trainer(), Trainer()
    well.rewards(reward_function(backend), f"well {failure}", [10] * 4)
    manager, options = backend, {}
    if failure == "rate_limited":
        judge.set_plan(named("rate_limited", retry_after_s=0))
    elif failure == "dead":
        manager = sibling(backend, judges=[DEAD_JUDGE])
    elif failure == "late":
        judge.set_plan(Action(hold=True))
        options = {"timeout_s": 0.3}
    else:
        manager = sibling(backend, broker={"url": "redis://127.0.0.1:9/0"})
    rewards = ill.rewards(reward_function(manager, **options), failure, [10] * 4)
    judge.release()
    assert rewards == [None] * 4
    assert ill.extra.keys() == well.extra.keys()
    assert ill.metrics["oyer/missing"] == [1]
    assert ill.metrics["oyer/q_present"] == [0]
    # A mean of nothing is no value, least of all NaN, which a mean over steps would keep.
    assert not {"oyer/judge_score", "oyer/q"} & ill.metrics.keys()
    monkeypatch.setenv("WORLD_SIZE", "2")
    # Some releases of TRL gather one metric after the other: each rank needs the same names.
    ranks = Trainer()
    log_terms([Score(status="expired")], ranks.columns(), "oyer", ["q", "length_penalty"])
    assert ranks.metrics.keys() == well.metrics.keys()
    assert all(math.isfinite(v) for values in ranks.metrics.values() for v in values)


def test_a_failure_is_raised_where_the_rules_say_so(
    backend: RewardManager, judge: JudgeServer
) -> None:
    judge.set_plan(named("not_found"))
    strict = sibling(backend, reward={"max_failed_fraction": 0.5})
    with pytest.raises(MissingScores, match="max_failed_fraction"):
        Trainer().rewards(reward_function(strict), "strict", [10] * 4)


def test_a_wrong_row_is_an_error_and_no_hole(backend: RewardManager) -> None:
    with pytest.raises(InvalidRollout, match="response_tokens"):
        Trainer().rewards(reward_function(backend), "uncounted", [1] * 2, completion_ids=None)


def test_one_row_that_cannot_be_scored_is_one_hole(
    backend: RewardManager, judge: JudgeServer
) -> None:
    """Half a surrogate pair is not text; the other rows keep their rewards."""
    completions = ["torn 0.", "torn \ud83d", "torn 2.", "torn 3."]
    trainer = Trainer()
    function: Any = reward_function(backend, num_generations=4)
    rewards = trainer.rewards(function, "torn", [10, 10, 10, 16], completions=completions)
    assert rewards == [pytest.approx(0.5), None, pytest.approx(0.5), pytest.approx(-0.5)]
    assert trainer.extra["oyer/judge_status"] == ["scored", "rejected", "scored", "scored"]
    columns = {"prompts": ["torn?"] * 4, "completion_ids": [[0] * n for n in (10, 10, 10, 16)]}
    tickets = asyncio.run(function.submit(completions=completions, **columns))
    again = trainer.rewards(
        function, "torn", [10, 10, 10, 16], completions=completions, **{TICKETS: tickets}
    )
    assert again == rewards
    strict = sibling(backend, reward={"on_missing": "raise"})
    with pytest.raises(InvalidRollout, match="surrogate"):
        trainer.rewards(reward_function(strict), "torn", [10] * 4, completions=completions)


def test_rows_of_which_none_can_be_scored_are_holes_once_others_could(
    backend: RewardManager, judge: JudgeServer
) -> None:
    """A rank may have one row only; the next step's are fine again."""
    function = reward_function(backend)
    torn = {"completions": ["alone \ud83d"]}
    with pytest.raises(InvalidRollout, match="surrogate"):
        Trainer().rewards(function, "alone", [10], **torn)
    assert Trainer().rewards(function, "alone", [10]) == pytest.approx([0.5])
    assert Trainer().rewards(function, "alone", [10], **torn) == [None]


def test_what_is_judged_in_time_is_not_lost_with_what_is_late(
    backend: RewardManager, judge: JudgeServer
) -> None:
    """All calls, 32 at a time, take longer than the trainer waits."""
    judge.set_plan(Action(text="Final score: 5", latency_s=1.0))
    function = reward_function(sibling(backend, length=[]), timeout_s=10)
    rewards = Trainer().rewards(function, "in time", [10] * 400)
    assert {reward and round(reward, 5) for reward in rewards} == {0.5, None}


def test_the_callable_works_where_a_loop_runs_already(
    backend: RewardManager, judge: JudgeServer
) -> None:
    """A notebook's main thread trains under a running loop."""

    async def cell() -> list[float | None]:
        return Trainer().rewards(RewardFunction(backend), "cell", [10] * 2)

    assert asyncio.run(cell()) == pytest.approx([0.5] * 2)


def test_base_scores_come_from_another_reward_function(
    backend: RewardManager, judge: JudgeServer
) -> None:
    async def exact(completions: list[str], answer: list[str], **_: Any) -> list[float | None]:
        return [float(a == "right") for a in answer]

    def sync(**columns: Any) -> list[Any]:
        return [np.float32(0.5)] * (len(columns["completions"]) - 1) + [True]

    trainer = Trainer()
    function = reward_function(backend, base_score=exact, reference="answer")
    answers = ["right", "wrong", "right", "wrong"]
    rewards = trainer.rewards(function, "based", [10] * 4, answer=answers)
    assert rewards == pytest.approx([1.5, 0, 1.5, 0])
    assert len(judge.requests) == 2
    assert "right" in user_text(judge.requests[0])
    again = trainer.rewards(reward_function(backend, base_score=sync), "synced", [10] * 4)
    assert again == pytest.approx([1.0] * 3 + [1.5])


def test_messages_are_judged_by_what_the_policy_wrote(
    backend: RewardManager, judge: JudgeServer
) -> None:
    call = {"type": "function", "function": {"name": "look_up", "arguments": {"city": "Bern"}}}
    completions = [
        [
            {"role": "assistant", "content": "Let me look.", "tool_calls": [call]},
            {"role": "assistant", "content": "It rains."},
        ]
    ]
    prompts = [[{"role": "user", "content": "How is Bern?"}]]
    rewards = Trainer().rewards(
        reward_function(backend), "chat", [5], prompts=prompts, completions=completions
    )
    assert rewards == pytest.approx([0.5])
    text = user_text(judge.requests[0])
    for part in ("How is Bern?", "Let me look.", "look_up", "It rains."):
        assert part in text


def test_rows_submitted_early_are_collected_by_ticket(
    backend: RewardManager, judge: JudgeServer
) -> None:
    """A `rollout_func` submits and returns the tickets; the reward function collects."""
    judge.set_plan(by_response({f"early {i}.": i + 1 for i in range(4)}))
    function: Any = reward_function(backend, num_generations=4)
    rows: dict[str, list[Any]] = {
        "prompts": ["early?"] * 4,
        "completions": [f"early {i}." for i in range(4)],
        "completion_ids": [[0] * 10] * 4,
    }
    tickets = asyncio.run(function.submit(**rows))
    judge.wait_until(lambda log: len(log) == 4)
    mixed = [3, 1, 0, 2]
    columns = {name: [values[i] for i in mixed] for name, values in rows.items()}
    columns[TICKETS] = [tickets[i] for i in mixed]
    rewards = Trainer().rewards(function, "early", [10] * 4, **columns)
    assert rewards == pytest.approx([0.4, 0.2, 0.1, 0.3])
    assert len(judge.requests) == 4
    with pytest.raises(InvalidInput, match=TICKETS):
        Trainer().rewards(function, "early", [10] * 4, **{TICKETS: ["x"] * 4})


def test_columns_reach_the_length_methods(backend: RewardManager, judge: JudgeServer) -> None:
    target = {"columns": {"target_lengths": "metadata.wanted"}, "alpha": 0.01}
    manager = sibling(backend, length={"method": "lcpo_exact", **target})
    rewards = Trainer().rewards(reward_function(manager), "wanted", [10, 30], wanted=[10, 10])
    assert rewards == pytest.approx([0.5, 0.3])


def test_each_step_may_have_an_event_loop_of_its_own(
    backend: RewardManager, judge: JudgeServer
) -> None:
    """ms-swift runs asynchronous rewards by `asyncio.run` in every step."""
    function = reward_function(backend)
    for step in range(3):
        rewards = Trainer().rewards(function, f"step {step}", [10] * 2)
        assert rewards == pytest.approx([0.5, 0.5])
