"""Several reward functions of one trainer: shared submissions, masks, components, truncation."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from oyer.demo.judge_server import JudgeServer
from oyer.demo.responses import Action
from oyer.manager import InvalidConfig, InvalidInput, RewardManager
from oyer.manager.trl import (
    OverlappedRewards,
    RewardFunction,
    masked_with,
    reward_function,
    reward_functions,
)
from tests.support.scripted_backend import sibling
from tests.support.trl_trainer import Trainer


@pytest.fixture(scope="module")
def backend_changes() -> dict[str, Any]:
    return {"length": {"method": "median_band"}}


def rewards_of(functions: list[Any], seen: Trainer, tag: str, **columns: Any) -> list[Any]:
    """Call the functions as TRL does: with the same lists, the coroutine functions at once."""
    given = {
        "prompts": [f"{tag}?"] * 4,
        "completions": [f"{tag} {i}." for i in range(4)],
        "completion_ids": [[0] * 10, [0] * 10, [0] * 10, [0] * 16],
        **seen.columns(),
        **columns,
    }
    ready = {i: one(**given) for i, one in enumerate(functions) if isinstance(one, RewardFunction)}

    async def gather() -> list[Any]:
        awaited = [i for i in range(len(functions)) if i not in ready]
        found = await asyncio.gather(*(functions[i](**given) for i in awaited))
        return [(ready | dict(zip(awaited, found, strict=True)))[i] for i in range(len(functions))]

    return asyncio.run(gather())


def plan_of_holes(tag: str) -> dict[str, Any]:
    rule = {"when": {"matches": f"{tag} 1\\."}, "then": "not_found"}
    return {"rules": [rule], "default": {"text": "Final score: 5"}}


def tidy(completions: list[str], **_: Any) -> list[float]:
    return [1.0] * len(completions)


async def slow(completions: list[str], **_: Any) -> list[float]:
    return [2.0] * len(completions)


@pytest.mark.parametrize("make", [reward_function, RewardFunction, reward_functions])
def test_masked_with_is_none_in_all_or_none(
    backend: RewardManager, judge: JudgeServer, make: Any
) -> None:
    tag = f"masked {make.__name__}"
    judge.set_plan(plan_of_holes(tag))
    functions = masked_with(make(backend, num_generations=4), tidy, slow)
    assert [one.__name__ for one in functions][-2:] == ["tidy", "slow"]
    trainer = Trainer()
    columns = rewards_of(functions, trainer, tag)
    for values in columns:
        assert [value is None for value in values] == [False, True, False, False]
    assert columns[-2:] == [[1.0, None, 1.0, 1.0], [2.0, None, 2.0, 2.0]]
    # Logged once, whoever reads.
    assert trainer.metrics["oyer/missing"] == [0.25]
    assert len({request.body_sha256 for request in judge.requests}) == len(judge.requests)


def test_masked_with_refuses_what_it_cannot_wrap(backend: RewardManager) -> None:
    with pytest.raises(InvalidInput, match=r"others\[0\]"):
        masked_with(reward_function(backend), "a/reward-model")  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="oyer"):
        masked_with(tidy)  # type: ignore[arg-type]


def test_functions_of_components_share_one_submission(
    backend: RewardManager, judge: JudgeServer
) -> None:
    judge.set_plan(Action(text="Final score: 6"))
    functions = reward_functions(backend, num_generations=4, name="mine", base_score=tidy)
    names = [one.__name__ for one in functions]
    assert names == ["mine/base_score", "mine/q", "mine/length_penalty"]
    for step in range(2):
        bases, judged, lengths = rewards_of(functions, Trainer(), f"shared {step}")
        assert bases == [1.0] * 4
        assert judged == [6.0] * 4
        assert lengths == pytest.approx([0, 0, 0, -1])
    assert len(judge.requests) == 8
    assert not functions[0].scorer.shared._open  # type: ignore[attr-defined]


def test_two_functions_of_one_name_do_not_mix_their_keys(
    backend: RewardManager, judge: JudgeServer
) -> None:
    judge.set_plan(Action(text="Final score: 6"))
    functions = [reward_function(backend), reward_function(backend)]
    seen = Trainer()
    rewards_of(functions, seen, "one name", trainer=trainer_with(functions))
    assert len(seen.metrics["oyer/missing"]) == len(seen.metrics["oyer_2/missing"]) == 1
    assert len(seen.extra["oyer/q"]) == len(seen.extra["oyer_2/q"]) == 4


def trainer_with(functions: list[Any], **settings: Any) -> Any:
    return SimpleNamespace(
        num_generations=4,
        model=SimpleNamespace(training=True),
        state=SimpleNamespace(global_step=1),
        reward_funcs=functions,
        eos_token_ids=[1],
        processing_class=SimpleNamespace(pad_token_id=0),
        **settings,
    )


def test_beside_an_unmasked_function_a_missing_score_is_neutral(
    backend: RewardManager, judge: JudgeServer
) -> None:
    judge.set_plan(plan_of_holes("neutral"))
    oyer = reward_function(backend)
    trainer = trainer_with([oyer, tidy])
    (rewards,) = rewards_of([oyer], Trainer(), "neutral", trainer=trainer)
    assert rewards == pytest.approx([0.5, (0.5 + 0.5 - 0.5) / 3, 0.5, -0.5])
    judge.set_plan(plan_of_holes("normalised"))
    trainer = trainer_with([oyer, tidy], multi_objective_aggregation="normalize_then_sum")
    (rewards,) = rewards_of([oyer], Trainer(), "normalised", trainer=trainer)
    assert rewards[1] is None


def test_truncation_is_known_by_the_last_token_or_refused(
    backend: RewardManager, judge: JudgeServer
) -> None:
    manager = sibling(backend, length={"method": "median_band", "truncated": "mask"})
    ids = [[5] * 9 + [end] for end in (1, 0, 5, 5)]
    with pytest.raises(InvalidConfig, match="eos_token_ids"):
        rewards_of([reward_function(manager)], Trainer(), "unknown")
    ended = [pytest.approx(0.5), pytest.approx(0.5), None, None]
    for options, columns in (
        ({"eos_token_ids": [0, 1]}, {}),
        ({}, {"trainer": trainer_with([])}),
        ({}, {"is_truncated": [False, False, True, True]}),
        ({}, {"finish_reason": ["stop", None, "length", "length"]}),
    ):
        function = reward_function(manager, num_generations=4, **options)
        (rewards,) = rewards_of([function], Trainer(), "ends", completion_ids=ids, **columns)
        assert rewards == ended


def test_the_mixin_is_refused_after_the_trainer() -> None:
    class TheirTrainer:
        def training_step(self) -> None: ...

    with pytest.raises(TypeError, match="OverlappedRewards, GRPOTrainer"):
        type("Trainer", (TheirTrainer, OverlappedRewards), {})
    type("Trainer", (OverlappedRewards, TheirTrainer), {})


def test_a_batch_that_has_begun_is_collected_by_the_function(
    backend: RewardManager, judge: JudgeServer
) -> None:
    function = RewardFunction(backend, num_generations=4)
    completions = [f"begun {i}." for i in range(4)]
    columns: dict[str, Any] = {"completion_ids": [[0] * n for n in (10, 10, 10, 16)]}
    function.begin(["begun?"] * 4, completions, **columns)
    judge.wait_until(lambda log: len(log) == 4)
    # Without the columns it could not be submitted: it is collected.
    rewards = asyncio.run(function.score(["begun?"] * 4, completions))
    assert rewards == pytest.approx([0.5, 0.5, 0.5, -0.5])
    assert len(judge.requests) == 4
