"""TRL's groups: of one rank, over two ranks, by prompt or by a column."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest

from oyer.demo.judge_server import JudgeServer
from oyer.demo.responses import Action, named
from oyer.manager import InvalidConfig, InvalidInput, JudgeOutage, RewardManager
from oyer.manager.trl.groups import groups_of
from oyer.manager.trl.reward import reward_function
from tests.support.scripted_backend import sibling
from tests.support.trl_trainer import Trainer


@pytest.fixture(scope="module")
def backend_changes() -> dict[str, Any]:
    return {"length": {"method": "median_band"}}


def on_two_ranks(manager: RewardManager, tag: str, texts: list[list[str]]) -> list[Any]:
    """Score a group of four of which two ranks have two each; the last is long."""
    # A manager of its own is what another rank's process has.
    functions: list[Any] = [
        reward_function(sibling(manager), num_generations=4, timeout_s=30) for _ in range(2)
    ]
    lengths = [[10, 10], [10, 16]]
    with ThreadPoolExecutor(2) as threads:
        calls = [
            threads.submit(Trainer().rewards, functions[i], tag, lengths[i], completions=texts[i])
            for i in range(2)
        ]
        return [call.result(60) for call in calls]


def test_a_group_that_is_spread_over_ranks_is_compared_as_a_whole(
    backend: RewardManager, judge: JudgeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TRL cuts a generation batch into ranks wherever it happens to."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    rewards = on_two_ranks(backend, "spread", [["spread.", "spread."], ["spread.", "other."]])
    assert rewards == [pytest.approx([0.5, 0.5]), pytest.approx([0.5, -0.5])]
    assert len(judge.requests) == 2
    judge.set_plan(named("not_found"))
    strict = sibling(backend, reward={"max_failed_fraction": 0.5})
    with pytest.raises(JudgeOutage):
        on_two_ranks(strict, "gone", [["a.", "b."], ["c.", "d."]])


def test_ranks_do_not_wait_for_a_row_that_another_rank_cannot_read(
    backend: RewardManager, judge: JudgeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a surrogate pair is no text. Waiting for that row would end without any reward."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    rewards = on_two_ranks(backend, "torn", [["torn a.", "torn \ud83d"], ["torn c.", "torn d."]])
    assert rewards == [[pytest.approx(0.5), None], pytest.approx([0.5, -0.5])]


def test_ranks_do_not_wait_for_a_rank_whose_base_score_raises(
    backend: RewardManager, judge: JudgeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Waiting for its rows would end without any reward."""
    monkeypatch.setenv("WORLD_SIZE", "2")

    def base_score(completions: list[str], **_: Any) -> list[float]:
        if "broken." in completions:
            raise RuntimeError("the verifier is broken")
        return [1.0] * len(completions)

    broken, whole = (
        reward_function(
            sibling(backend), num_generations=4, timeout_s=30, run="raises", base_score=base_score
        )
        for _ in range(2)
    )
    with ThreadPoolExecutor(2) as threads:
        raised, scored = (
            threads.submit(Trainer().rewards, function, "raises", [10, 10], completions=texts)
            for function, texts in ((broken, ["broken.", "b."]), (whole, ["c.", "d."]))
        )
        with pytest.raises(RuntimeError, match="the verifier is broken"):
            raised.result(60)
        assert scored.result(60) == pytest.approx([1.5] * 2)


def test_ranks_do_not_wait_for_a_judge_until_their_collective_fails(
    backend: RewardManager, judge: JudgeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("oyer.manager.trl.scorer.RANKS_TIMEOUT_S", 0.3)
    judge.set_plan(Action(hold=True))
    function = reward_function(backend, num_generations=2)
    assert Trainer().rewards(function, "held", [10, 10]) == [None, None]
    judge.release()


def test_an_evaluation_may_have_groups_of_another_size(
    backend: RewardManager, judge: JudgeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody has the rest of a group of four: waiting for it would end without a reward."""
    monkeypatch.setenv("WORLD_SIZE", "2")

    class Evaluating:
        num_generations, num_generations_eval = 4, 1
        model = SimpleNamespace(training=False)

        def log_metric(self, name: str, value: float) -> None:
            pass

    function = reward_function(backend, num_generations=4, timeout_s=20)
    rewards = Trainer().rewards(function, "eval", [10], log_metric=Evaluating().log_metric)
    assert rewards == pytest.approx([0.5])


def test_with_several_ranks_the_size_of_a_group_is_needed(
    backend: RewardManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InvalidConfig, match="num_generations"):
        Trainer().rewards(reward_function(backend), "unsized", [10] * 4)
    function: Any = reward_function(backend, num_generations=4)
    with pytest.raises(InvalidInput, match="multiple of num_generations"):
        asyncio.run(function.submit(prompts=["p"] * 2, completions=["a", "b"]))


def test_whole_groups_of_a_rank_are_its_own(
    backend: RewardManager, judge: JudgeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    function = reward_function(backend, num_generations=4)
    assert Trainer().rewards(function, "whole", [10, 10, 10, 16]) == pytest.approx(
        [0.5] * 3 + [-0.5]
    )


def test_a_column_can_say_what_the_rows_of_a_group_share(
    backend: RewardManager, judge: JudgeServer
) -> None:
    """After several turns, the prompts of a group differ."""
    function = reward_function(backend, num_generations=4, group="prompt_id")
    prompts = [f"turns? {i}" for i in range(4)]
    lengths = [10, 10, 10, 16]
    rewards = Trainer().rewards(function, "turns", lengths, prompts=prompts, prompt_id=["p"] * 4)
    assert rewards == pytest.approx([0.5] * 3 + [-0.5])
    prompts = [f"alone? {i}" for i in range(8)]
    alone = Trainer().rewards(function, "alone", lengths * 2, prompts=prompts)
    assert alone == pytest.approx([0.5] * 8)


def grouped(
    prompts: list[Any], size: int | None, trainer: Any = None, column: str | None = None
) -> list[str]:
    columns = {"trainer": trainer}
    return groups_of(
        prompts, columns, num_generations=size, column=column, call="c", compared=True
    ).ids


def test_without_a_trainer_groups_are_neighbouring_rows_of_one_prompt() -> None:
    assert grouped(["a", "a", "b", "b", "b"], None) == ["0.0", "0.0", "1.0", "1.0", "1.0"]
    assert grouped(["a"] * 4, 2) == ["0.0", "0.0", "0.1", "0.1"]
    chat = [[{"role": "user", "content": "a"}], [{"role": "user", "content": "a"}]]
    assert grouped(chat, 8) == ["0.0", "0.0"]
    # AsyncGRPO scores one group per call, whatever environments add to its prompts.
    assert grouped(["a", "b", "c"], 3) == ["0", "0", "0"]


def trainer_of(rank: int, *, training: bool = True) -> Any:
    return SimpleNamespace(
        num_generations=4,
        num_generations_eval=2,
        model=SimpleNamespace(training=training),
        accelerator=SimpleNamespace(process_index=rank),
    )


def test_a_trainers_groups_go_by_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment gives each row its own prompt; a data set may repeat a prompt."""
    differ, equal = [f"p{i}" for i in range(8)], ["p"] * 8
    for prompts in (differ, equal):
        assert grouped(prompts, 8, trainer_of(0)) == ["0"] * 4 + ["1"] * 4
    assert grouped(equal[:4], 4, trainer_of(0, training=False)) == ["0", "0", "1", "1"]
    monkeypatch.setenv("WORLD_SIZE", "2")
    # Whole groups on each rank need not meet.
    assert grouped(differ, 4, trainer_of(1)) == ["0"] * 4 + ["1"] * 4
    assert grouped(equal[:6], 4, trainer_of(0)) == ["c.0"] * 4 + ["c.1"] * 2
    assert grouped(equal[:6], 4, trainer_of(1)) == ["c.1"] * 2 + ["c.2"] * 4
