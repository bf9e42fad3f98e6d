"""verl's own RewardLoopManager with Ray actors, and its DataProto through the replaced class."""

import asyncio
import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from trainer_backend import ROOT, Backend, judged, score_of
from verl.experimental.reward_loop.reward_loop import RewardLoopManager
from verl.trainer.ppo.metric_utils import process_validation_metrics
from verl.trainer.ppo.reward import load_reward_manager
from verl_setup import (
    batch_of,
    config_of,
    made_tokenizer,  # noqa: F401 - a fixture, as the two below
    ray_on_loopback,  # noqa: F401
    written_score_file,  # noqa: F401
)

from oyer.demo.responses import Action, named
from oyer.manager import MissingScores
from oyer.manager.verl import LengthPenaltyRewardManager, RewardManager

VECTORS = json.loads((Path(__file__).parents[1] / "data" / "median_band_vectors.json").read_text())


LOOPS: dict[str, dict[str, Any]] = {
    "compared": {"length": {"method": "median_band"}},
    "dead": {"judges": [{"name": "q", "endpoint": "dead", "model": "m"}]},
    "impatient": {},
}
"""What the configurations of the loops change; a loop's actors take seconds to start."""


@pytest.fixture(scope="module")
def loop(
    request: pytest.FixtureRequest, up: Backend, tokenizer_folder: Path, score_file: Path
) -> Iterator[RewardLoopManager]:
    """verl's manager with two Ray actors, by the name of what its configuration changes."""
    name: str = request.param
    oyer: dict[str, Any] = {"config": str(up.file(f"{name}.yaml", **LOOPS[name])), "run": name}
    if name == "impatient":
        oyer["timeout_s"] = 1.0
    manager = RewardLoopManager(config_of(tokenizer_folder, score_file, oyer))
    yield manager
    for worker in manager.reward_loop_workers:
        ray.kill(worker)


@pytest.mark.parametrize("loop", ["compared"], indirect=True)
def test_ray_actors_stream_to_one_backend(
    backend: Backend, loop: RewardLoopManager, tokenizer: Any
) -> None:
    responses = [f"answer {i:02}" for i in range(16)]
    scored = loop.compute_rm_score(batch_of(tokenizer, responses))
    at = [len(text) - 1 for text in responses]
    expected = torch.tensor([1 + 0.1 * score_of(text) for text in responses])
    torch.testing.assert_close(scored.batch["rm_scores"][range(16), at], expected)
    assert scored.batch["rm_scores"].count_nonzero() == 16
    assert scored.non_tensor_batch["judge_status"].tolist() == ["scored"] * 16
    recorded = backend.recorded("compared")
    assert recorded == {
        t: pytest.approx(float(e)) for t, e in zip(responses, expected, strict=True)
    }
    assert len(backend.judge.requests) == 16


@pytest.mark.parametrize("loop", ["compared"], indirect=True)
def test_a_group_whose_rollouts_are_spread_over_actors_is_compared_as_a_whole(
    backend: Backend, loop: RewardLoopManager, tokenizer: Any
) -> None:
    backend.judge.set_plan(Action(text="Final score: 5"))
    responses = [f"spread {i}" for i in range(8)]
    # verl gives an actor consecutive rows: the long ones are in another than most of the others.
    lengths = [10] * 6 + [16, 13]
    data = batch_of(tokenizer, responses, lengths, uid=["even", "odd"] * 4)
    scored = loop.compute_rm_score(data)
    expected = torch.tensor([1.5] * 6 + [0.5, 1.5])
    torch.testing.assert_close(scored.batch["rm_scores"].sum(-1), expected)
    assert scored.non_tensor_batch["length_term"].tolist() == pytest.approx([0] * 6 + [-1, 0])
    assert len(backend.judge.requests) == 8


@pytest.mark.parametrize(
    ("loop", "failure"),
    [
        ("compared", "rate_limited"),
        ("compared", "one of all"),
        ("dead", "dead"),
        ("impatient", "late"),
    ],
    indirect=["loop"],
)
def test_a_failing_judge_ends_no_step(
    backend: Backend, loop: RewardLoopManager, tokenizer: Any, failure: str
) -> None:
    responses = [f"{failure} {i}" for i in range(8)]
    if failure == "rate_limited":
        backend.judge.set_plan(named("rate_limited", retry_after_s=0))
    elif failure == "one of all":
        backend.judge.set_plan(
            {
                "rules": [{"when": {"matches": "one of all 3"}, "then": "not_found"}],
                "default": {"text": "Final score: 5"},
            }
        )
    elif failure == "late":
        backend.judge.set_plan(Action(hold=True))
    scored = loop.compute_rm_score(batch_of(tokenizer, responses))
    backend.judge.release()
    rewards = scored.batch["rm_scores"].sum(-1)
    missing = [not there for there in scored.non_tensor_batch["oyer/q_present"]]
    assert missing == [failure != "one of all" or i == 3 for i in range(8)]
    # The mean of the group replaces one score; without any, all rows have their base scores.
    expected = torch.full((8,), 1.5 if failure == "one of all" else 1.0)
    torch.testing.assert_close(rewards, expected)
    # What verl's validation makes of them.
    infos = {key: column.tolist() for key, column in scored.non_tensor_batch.items()}
    metrics = process_validation_metrics(["toolcall"] * 8, [f"g{i}" for i in range(8)], infos)
    assert metrics["toolcall"]["acc"]["mean@1"] == 1.0
    averages = [one for metric in metrics["toolcall"].values() for one in metric.values()]
    assert np.isfinite(averages).all()


def test_the_example_s_lines_are_verl_s_own(backend: Backend, tokenizer: Any) -> None:
    """Hydra takes them over verl's whole configuration, and verl makes the manager of them."""
    words = shlex.split((ROOT / "examples" / "verl" / "reward_loop.sh").read_text(), comments=True)
    given = dict(word.split("=", 1) for word in words if "=" in word)
    given["+reward.reward_kwargs.oyer.config"] = str(backend.file("hydra.yaml"))
    with initialize_config_module("verl.trainer.config", version_base=None):
        config = compose("ppo_trainer", overrides=[f"{k}={v}" for k, v in given.items()])
    made = load_reward_manager(config, tokenizer)
    assert isinstance(made, RewardManager)
    assert made.options.run == given["+reward.reward_kwargs.oyer.run"]


def legacy_manager(tokenizer: Any, backend: Backend, **settings: Any) -> LengthPenaltyRewardManager:
    return LengthPenaltyRewardManager(
        tokenizer=tokenizer,
        num_examine=0,
        compute_score=lambda extra_info, **_: extra_info["base"],
        reward_fn_key="data_source",
        # As verl up to 0.7.0 hands over what `reward_model.reward_kwargs` holds.
        length_penalty_config=OmegaConf.create(
            {
                "use_async_io": True,
                "broker_url": backend.config["broker"]["url"],
                "endpoint": "fake",
                "rubric": "reasoning_en",
                **settings,
            }
        ),
    )


def test_the_replaced_class_reads_verl_s_own_data(backend: Backend, tokenizer: Any) -> None:
    for number, vector in enumerate(VECTORS):
        names = [f"<{number}.{i}>" for i in range(len(vector["lengths"]))]
        scores = dict(zip(names, vector["judge_scores"], strict=True))
        backend.judge.set_plan(_by_name(scores))
        # A name needs room, and lengths in proportion have the same penalties.
        lengths = [8 * n for n in vector["lengths"]]
        assert min(lengths) >= len("<29.16>")
        data = batch_of(
            tokenizer,
            names,
            lengths,
            uid=vector["group_ids"],
            extra_info=[{"base": base} for base in vector["base_scores"]],
        )
        coefficient = vector["reward_coefficient"]
        manager = legacy_manager(
            tokenizer, backend, reward_coefficient=coefficient, **vector["params"]
        )
        result = manager(data, return_dict=True)
        rewards = result["reward_tensor"][range(len(names)), [n - 1 for n in lengths]]
        expected = torch.tensor(vector["expected_rewards"])
        torch.testing.assert_close(rewards, expected, atol=1e-5, rtol=0)
        assert {len(column) for column in result["reward_extra_info"].values()} == {len(names)}


def test_the_replaced_class_passes_scores_through_that_came_along(
    backend: Backend, tokenizer: Any
) -> None:
    data = batch_of(tokenizer, ["a", "b"], acc=[1, 0])
    data.batch["rm_scores"] = torch.ones_like(data.batch["responses"], dtype=torch.float32)
    data.meta_info["reward_extra_keys"] = ["acc"]
    manager = legacy_manager(tokenizer, backend)
    assert torch.equal(manager(data), data.batch["rm_scores"])
    result = manager(data, return_dict=True)
    assert torch.equal(result["reward_tensor"], data.batch["rm_scores"])
    assert result["reward_extra_info"]["acc"].tolist() == [1, 0]
    assert backend.judge.requests == []


def test_the_replaced_class_works_in_a_ray_task(backend: Backend, tokenizer: Any) -> None:
    """verl 0.5 and 0.6 pickle the manager into one in every step."""
    backend.judge.set_plan(Action(text="Final score: 5"))
    data = batch_of(tokenizer, ["in a task 1", "in a task 2"])
    manager = legacy_manager(tokenizer, backend, reward_coefficient=0.1)
    task = ray.remote(lambda batch, reward_fn: reward_fn(batch, return_dict=True))
    result = ray.get(task.remote(data, manager))
    assert result["reward_tensor"].sum(-1).tolist() == pytest.approx([1.5, 1.5])
    # Again in the trainer's own process, as verl does after an exception: nothing is paid twice.
    torch.testing.assert_close(manager(data), result["reward_tensor"])
    assert len(backend.judge.requests) == 2


def test_the_replaced_class_judges_while_the_trainer_computes_log_probs(
    backend: Backend, tokenizer: Any
) -> None:
    """`submit` returns while no call has ended: whatever comes before `result` overlaps with judging."""
    backend.judge.set_plan(Action(text="Final score: 5", hold=True))
    manager = legacy_manager(tokenizer, backend, reward_coefficient=0.1)
    future = manager.submit(batch_of(tokenizer, ["overlaps 1", "overlaps 2"]))
    backend.judge.wait_until(lambda log: len(log) == 2)
    backend.judge.release()
    assert future.result().sum(-1).tolist() == pytest.approx([1.5, 1.5])


@pytest.mark.parametrize(("on_missing", "reward"), [("base_score", 1.0), (-0.5, -0.5)])
def test_the_loops_option_decides_what_a_missing_reward_is(
    backend: Backend,
    tokenizer: Any,
    score_file: Path,
    tokenizer_folder: Path,
    on_missing: Any,
    reward: float,
) -> None:
    result = asyncio.run(_missing_row(backend, tokenizer, tokenizer_folder, score_file, on_missing))
    assert result["reward_score"] == reward
    assert not result["reward_extra_info"]["has_reward"]
    assert result["reward_extra_info"]["oyer/q_present"] == 0


def test_the_loop_raises_a_missing_reward_where_its_option_says_so(
    backend: Backend, tokenizer: Any, score_file: Path, tokenizer_folder: Path
) -> None:
    with pytest.raises(MissingScores, match="on_missing"):
        asyncio.run(_missing_row(backend, tokenizer, tokenizer_folder, score_file, "raise"))


async def _missing_row(
    backend: Backend, tokenizer: Any, folder: Path, score_file: Path, on_missing: Any
) -> Any:
    """Score a row whose judge fails, in this process."""
    backend.judge.set_plan(named("not_found"))
    oyer = {"config": str(backend.file("option.yaml")), "run": "option", "on_missing": on_missing}

    def compute_score(**_: Any) -> float:
        return 1.0

    manager = RewardManager(config_of(folder, score_file, oyer), tokenizer, compute_score)
    data = batch_of(tokenizer, [f"option {on_missing}"], uid=[f"option {on_missing}"])
    data.non_tensor_batch["oyer_rollout"] = np.array([{"group_size": 1}], dtype=object)
    return await manager.run_single(data)


def test_a_truncated_row_that_is_to_be_masked_has_its_base_score(
    backend: Backend, tokenizer: Any, score_file: Path, tokenizer_folder: Path
) -> None:
    """verl has no mask for a rollout."""
    file = backend.file("cut.yaml", length={"method": "median_band", "truncated": "mask"})
    text = "cut off here"
    settings = config_of(
        tokenizer_folder, score_file, {"config": str(file)}, response_length=len(text)
    )
    manager = RewardManager(settings, tokenizer, lambda **_: 0.75)
    data = batch_of(tokenizer, [text], uid=["cut"])
    data.non_tensor_batch["oyer_rollout"] = np.array([{"group_size": 1}], dtype=object)

    async def scored() -> Any:
        return await manager.run_single(data)

    result = asyncio.run(scored())
    assert result["reward_score"] == 0.75
    assert not result["reward_extra_info"]["has_reward"]
    assert result["reward_extra_info"]["oyer/q_present"] == 1


def test_the_replaced_class_raises_a_missing_reward_where_its_setting_says_so(
    backend: Backend, tokenizer: Any
) -> None:
    backend.judge.set_plan(named("not_found"))
    strict = legacy_manager(tokenizer, backend, reward_coefficient=0.1, on_missing="raise")
    with pytest.raises(MissingScores):
        strict(batch_of(tokenizer, ["strict 1"]))


@pytest.mark.parametrize("missing", ["one", "all"])
def test_the_replaced_class_ranks_no_unjudged_row_below_its_judged_siblings(
    backend: Backend, tokenizer: Any, missing: str
) -> None:
    matches = "neutral one 0" if missing == "one" else "neutral all"
    backend.judge.set_plan(
        {
            "rules": [
                {"when": {"matches": matches}, "then": "not_found"},
                {"when": {"matches": f"neutral {missing} 1"}, "then": {"text": "Final score: 3"}},
            ],
            "default": {"text": "Final score: 7"},
        }
    )
    texts = [f"neutral {missing} {i}" for i in range(3)]
    data = batch_of(tokenizer, texts, uid=["neutral"] * 3)
    result = legacy_manager(tokenizer, backend, reward_coefficient=0.1)(data, return_dict=True)
    rewards = result["reward_tensor"].sum(-1).tolist()
    if missing == "all":
        assert rewards == [1.0] * 3
    else:
        assert min(rewards) < rewards[0] < max(rewards)
    info = result["reward_extra_info"]
    assert info["oyer/quality_present"] == [0.0] + [float(missing == "one")] * 2
    assert all(np.isfinite(column).all() for column in info.values())


def _by_name(scores: dict[str, int]) -> Any:
    def plan(arrival: Any) -> Action:
        response = judged(arrival)
        return Action(text=f"Final score: {scores[response[: response.index('>') + 1]]}")

    return plan
