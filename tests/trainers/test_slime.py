"""slime's own rollout with the adapter; `OYER_SLIME` names the folder that holds its package."""

import asyncio
import importlib
import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from storms import stormy
from trainer_backend import Backend

FOLDER = os.environ.get("OYER_SLIME")

pytestmark = pytest.mark.skipif(FOLDER is None, reason="OYER_SLIME names no folder with slime")


@pytest.fixture
def rollout(monkeypatch: pytest.MonkeyPatch) -> Any:
    """slime's rollout module; the SGLang router and engines are stand-ins."""
    monkeypatch.syspath_prepend(FOLDER)
    module: Any = importlib.import_module("slime.rollout.sglang_rollout")

    class State(module.GenerateState):  # type: ignore[misc]
        def __init__(self, args: Any) -> None:
            self.args, self.tokenizer, self.processor = args, None, None
            self.semaphore = asyncio.Semaphore(64)
            self.sampling_params = {"max_new_tokens": 100}
            self.dp_counts, self.dp_rank = [0], 0
            self.reset()

    async def no_workers(_: str) -> Any:
        return {"workers": []}

    async def stop(_: Any) -> None:
        return None

    monkeypatch.setattr(module, "GenerateState", State)
    monkeypatch.setattr(module, "get", no_workers)
    monkeypatch.setattr(module, "abort_servers_until_idle", stop)
    generation: Any = ModuleType("generation_of_the_test")
    generation.generate = generate_with(module)
    monkeypatch.setitem(sys.modules, "generation_of_the_test", generation)
    return module


def generate_with(module: Any) -> Any:
    async def generate(args: Any, sample: Any, sampling_params: Any) -> Any:
        """Finish all but the last sample of the surplus groups, which slime aborts."""
        i = sample.index % 4
        if sample.group_index >= 2 and i == 3 and not sample.response:
            while not module.GenerateState(args).aborted:
                await asyncio.sleep(0.01)
            sample.response, sample.status = "half", module.Sample.Status.ABORTED
            return sample
        sample.response += f"{sample.group_index}.{i}" + "!" * (20 if i == 3 else 8)
        sample.response_length = len(sample.response)
        sample.tokens = [1, *sample.response.encode()]
        sample.status = module.Sample.Status.COMPLETED
        return sample

    return generate


def arguments(**given: Any) -> SimpleNamespace:
    names = (
        "rm_type", "reward_key", "eval_reward_key", "dynamic_sampling_filter_path",
        "rollout_sample_filter_path", "rollout_all_samples_process_path",
    )  # fmt: skip
    values = {
        "custom_rm_path": "oyer.manager.slime.custom_rm",
        "custom_generate_function_path": "generation_of_the_test.generate",
        "n_samples_per_prompt": 4, "rollout_batch_size": 2, "over_sampling_batch_size": 4,
        "group_rm": False, "partial_rollout": False, "mask_offpolicy_in_partial_rollout": False,
        "rollout_global_dataset": True, "ci_test": False,
        "sglang_router_ip": "none", "sglang_router_port": 1,
    }  # fmt: skip
    return SimpleNamespace(**dict.fromkeys(names), **{**values, **given})


@pytest.mark.parametrize("partial", [False, True])
def test_an_over_sampled_rollout_ends_with_its_last_group(
    rollout: Any, backend: Backend, monkeypatch: pytest.MonkeyPatch, partial: bool
) -> None:
    """slime waits for the finished siblings of aborted samples, which must not wait for these."""
    config = backend.file("slime.yaml", length={"method": "median_band"}, deadline_s=500)
    monkeypatch.setenv("OYER_CONFIG", str(config))
    # The test would time out.
    run = f"slime {partial}"
    args = arguments(partial_rollout=partial, oyer_run=run, oyer_group_timeout_s=900)
    groups = [
        [
            rollout.Sample(group_index=g, index=4 * g + i, prompt=f"{run} {g}?", label="4")
            for i in range(4)
        ]
        for g in range(4)
    ]
    output, aborted = asyncio.run(
        rollout.generate_rollout_async(args, 5, lambda n: [groups.pop(0) for _ in range(n)])
    )
    assert [len(group) for group in output.samples] == [4, 4]
    shaped = backend.shaped_rewards(run)
    assert all(
        sample.reward in shaped[sample.response] for group in output.samples for sample in group
    )
    if partial:
        assert all(one.reward is not None for group in aborted for one in group[:3])
    assert Path(config).exists()


@pytest.mark.parametrize("chosen", [None, -0.5], ids=["neutral", "chosen"])
@pytest.mark.parametrize("one_call", [False, True], ids=["custom_rm", "group_rm"])
def test_a_missing_reward_is_neutral_and_leaves_the_loss(
    rollout: Any,
    backend: Backend,
    monkeypatch: pytest.MonkeyPatch,
    one_call: bool,
    chosen: float | None,
) -> None:
    """Through slime's own `rm_hub`, which calls the functions."""
    backend.judge.set_plan(stormy)
    config = backend.file("slime-missing.yaml", length={"method": "median_band"})
    monkeypatch.setenv("OYER_CONFIG", str(config))
    run = f"slime missing {one_call} {chosen}"
    name = "group_rm" if one_call else "custom_rm"
    path = f"oyer.manager.slime.{name}"
    args = arguments(
        custom_rm_path=path,
        oyer_run=run,
        oyer_missing_reward=chosen,
        rewards_normalization=True,
        advantage_estimator="grpo",
        grpo_std_normalization=True,
    )
    texts = ["good 0", "storm 1", "good 22", "good 333"]
    group = [
        rollout.Sample(
            group_index=0,
            index=i,
            prompt=f"{run}?",
            response=text,
            response_length=8,
            tokens=[1] * 9,
            status=rollout.Sample.Status.COMPLETED,
        )
        for i, text in enumerate(texts)
    ]

    async def rewards_of_group() -> list[float]:
        if one_call:
            return list(await rollout.batched_async_rm(args, group))
        return list(await asyncio.gather(*(rollout.async_rm(args, one) for one in group)))

    rewards = asyncio.run(rewards_of_group())
    judged = [rewards[i] for i in (0, 2, 3)]
    expected = sum(judged) / 3 if chosen is None else chosen
    assert rewards[1] == pytest.approx(expected)
    assert [sample.remove_sample for sample in group] == [False, True, False, False]
    assert group[1].metadata["judge_status"] == "rate_limited"
    for sample, reward in zip(group, rewards, strict=True):
        sample.reward = reward
    misc = importlib.import_module("slime.utils.misc")
    _, normalised = misc.load_function("oyer.manager.slime.post_process")(args, group)
    # Of the judged samples only: the missing one is neither in their mean nor ranked.
    assert normalised[1] == 0
    assert sum(normalised) == pytest.approx(0, abs=1e-6)
    assert len({round(value, 6) for value in normalised}) > 1


def test_what_slime_logs_of_a_rollout_has_the_judges(
    rollout: Any, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through slime's own `log_rollout_data`; only its trackers are left out."""
    module: Any = importlib.import_module("slime.observability.rollout_metrics")
    logged: dict[str, Any] = {}

    def log(_: Any, metrics: dict[str, Any], step_key: str) -> None:
        logged.update(metrics, step_key=step_key)

    monkeypatch.setattr(module.logging_utils, "log", log)
    monkeypatch.setenv("OYER_CONFIG", str(backend.file("slime-log.yaml")))
    args = arguments(
        custom_rollout_log_function_path="oyer.manager.slime.log_rollout",
        oyer_run="slime logged",
        load_debug_rollout_data=False,
        advantage_estimator="grpo",
        log_reward_category=None,
        use_slime_router=False,
        sglang_speculative_algorithm=None,
        wandb_always_use_train_step=False,
        log_passrate=False,
        rollout_num_gpus=1,
    )
    sample = rollout.Sample(
        group_index=0,
        index=0,
        prompt="Logged?",
        response="a reply",
        response_length=7,
        tokens=[1] * 9,
        status=rollout.Sample.Status.COMPLETED,
    )
    sample.reward = asyncio.run(rollout.async_rm(args, sample))
    module.log_rollout_data(4, args, [sample], {"rollout/dynamic_filter/drop": 0}, 1.0)
    assert logged["rollout/oyer/q"] * 0.1 == pytest.approx(sample.reward)
    assert logged["rollout/oyer/missing"] == 0
    assert (logged["rollout/step"], logged["step_key"]) == (4, "rollout/step")
