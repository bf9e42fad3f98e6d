"""slime's rollout around the reward functions: aborted siblings, resumed groups, steps, evaluation."""

import asyncio
import json
import sqlite3
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from oyer.demo.judge_server import JudgeServer
from oyer.manager.slime import custom_rm
from oyer.manager.slime.caller import Caller, current_caller
from tests.manager.test_slime import Sample, Status
from tests.manager.test_slime import args as args_of
from tests.support.scripted_backend import Running
from tests.support.slime_rollout import Trainer

LENGTHS = (10, 10, 10, 16)


@pytest.fixture
def configure(running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Write the file that `OYER_CONFIG` names."""

    def write(**changes: Any) -> None:
        file = tmp_path / "oyer.yaml"
        file.write_text(json.dumps({**running[0].config.model_dump(mode="json"), **changes}))
        monkeypatch.setenv("OYER_CONFIG", str(file))

    return write


def args(**given: Any) -> SimpleNamespace:
    """slime's arguments: on a busy machine, the learned time may pass before a group is complete."""
    return args_of(oyer_group_timeout_s=600, **given)


def groups_of(tag: str, n: int = 2) -> list[list[Sample]]:
    return [
        [Sample(g, 4 * g + i, prompt=f"{tag} {g}?", status=Status.PENDING) for i in range(4)]
        for g in range(n)
    ]


async def unless_surplus(state: Any, sample: Sample) -> None:
    """Finish all but the last sample of a group from the second on, which ends when it is aborted."""
    i = (sample.index or 0) % 4
    if sample.group_index and i == 3 and not sample.response:
        while not state.aborted:
            await asyncio.sleep(0.01)
        sample.response, sample.status = "half", Status.ABORTED
        return
    sample.response += f"{sample.group_index}.{i}."
    sample.response_length = LENGTHS[i]
    sample.status = Status.COMPLETED


def recorded(running: Running, run: str) -> list[tuple[Any, ...]]:
    """Read the latest rows of a run with a length term."""
    path = str(running[0].config.store.url).removeprefix("sqlite:///")
    with sqlite3.connect(path) as connection:
        rows = connection.execute(
            "SELECT group_id, step, split FROM judge_history WHERE run = ?", (run,)
        )
        return list(rows)


def test_aborted_siblings_never_stall_a_rollout(judge: JudgeServer, configure: Any) -> None:
    """The groups that slime discards are not waited for: neither siblings nor the judge."""
    configure(length={"method": "median_band"})
    given = args(rollout_batch_size=1, partial_rollout=False)
    trainer = Trainer(given, custom_rm, unless_surplus)
    groups = groups_of("surplus")
    (whole,) = asyncio.run(trainer.generate_rollout_async(0, groups))
    assert [sample.reward for sample in whole] == pytest.approx([0.5, 0.5, 0.5, -0.5])
    finished = groups[1][:3]
    assert all(sample.remove_sample for sample in finished)
    assert [(sample.metadata or {})["judge_status"] for sample in finished] == ["aborted"] * 3


def test_a_group_that_waits_before_it_starts_its_samples_is_no_error() -> None:
    """The locals of a frame that has not reached its tasks are not set."""

    async def generate_and_rm_group(start: asyncio.Event) -> list[Caller]:
        await start.wait()
        tasks = [asyncio.create_task(generate_and_rm()) for _ in range(2)]
        return await asyncio.gather(*tasks)

    async def generate_and_rm(evaluation: bool = False) -> Caller:
        await asyncio.sleep(0)
        return current_caller()

    async def both() -> list[Caller]:
        later, now = asyncio.Event(), asyncio.Event()
        now.set()
        waiting = asyncio.create_task(generate_and_rm_group(later))
        found = await asyncio.create_task(generate_and_rm_group(now))
        later.set()
        await waiting
        return found

    assert [len(caller.siblings) for caller in asyncio.run(both())] == [2, 2]


def test_a_resumed_group_is_compared_whole(judge: JudgeServer, configure: Any) -> None:
    """In partial rollouts the finished siblings keep their place until the last one comes."""
    configure(length={"method": "median_band"})
    given = args(rollout_batch_size=1, partial_rollout=True)
    trainer = Trainer(given, custom_rm, unless_surplus)
    groups = groups_of("partial")
    asyncio.run(trainer.generate_rollout_async(0, groups))
    resumed = groups[1]
    assert [sample.reward for sample in resumed[:3]] == pytest.approx([0.5, 0.5, 0.5])
    assert resumed[3].reward is None
    resumed[1].reward = 77.0  # replaced by the reward of the whole group
    (whole,) = asyncio.run(trainer.generate_rollout_async(1, [resumed]))
    assert [sample.reward for sample in whole] == pytest.approx([0.5, 0.5, 0.5, -0.5])


def test_a_refused_or_rewarded_sibling_is_not_waited_for(
    judge: JudgeServer, configure: Any
) -> None:
    configure(length={"method": "median_band"})

    async def generate(state: Any, sample: Sample) -> None:
        await unless_surplus(state, sample)
        if sample.index == 1:
            sample.response = "half a pair \ud83d"

    (group,) = groups_of("refused", 1)
    group[0].reward = 9.0  # a custom generate function has set it
    trainer = Trainer(args(rollout_batch_size=1), custom_rm, generate)
    asyncio.run(trainer.generate_rollout_async(0, [group]))
    assert group[0].reward == 9.0
    assert group[1].remove_sample
    assert [sample.reward for sample in group[2:]] == pytest.approx([0.5, 0.5])


def test_step_and_split_are_on_record(running: Running, judge: JudgeServer, configure: Any) -> None:
    configure(length={"method": "median_band"})
    given = args(rollout_batch_size=1, oyer_run="slime steps")
    trainer = Trainer(given, custom_rm, unless_surplus)
    asyncio.run(trainer.generate_rollout_async(7, groups_of("steps", 1)))
    evaluated = [Sample(None, 0, prompt="eval?", status=Status.PENDING)]
    asyncio.run(trainer.eval_rollout(7, evaluated))
    rows = recorded(running, "slime steps")
    assert {(step, split) for _, step, split in rows} == {(7, "train"), (7, "eval")}


def test_a_missing_reward_is_its_group_s_mean_and_leaves_the_loss(
    judge: JudgeServer, configure: Any
) -> None:
    """slime's own normalisation counts the number in the group's mean."""
    configure(length={"method": "median_band"})
    judge.set_plan(
        {
            "rules": [{"when": {"matches": "0\\.1\\."}, "then": "not_found"}],
            "default": {"text": "Final score: 5"},
        }
    )
    (group,) = groups_of("neutral", 1)
    trainer = Trainer(args(rollout_batch_size=1), custom_rm, unless_surplus)
    asyncio.run(trainer.generate_rollout_async(0, [group]))
    rewards = [sample.reward for sample in group]
    assert group[1].remove_sample
    assert rewards[1] == pytest.approx((rewards[0] + rewards[2] + rewards[3]) / 3)


def test_tool_results_are_no_words_of_the_policy(judge: JudgeServer, configure: Any) -> None:
    configure()
    text = "call" + "TOOL RESULT" + "answer"
    mask = [1] * 4 + [0] * 11 + [1] * 6
    sample = Sample(3, 0, response=text, response_length=len(text), tokens=list(text.encode()))
    sample.loss_mask = mask  # type: ignore[attr-defined]

    class Tokenizer:
        def decode(self, ids: list[int], skip_special_tokens: bool) -> str:
            return bytes(ids).decode()

    async def generate(state: Any, sample: Sample) -> None:
        sample.status = Status.COMPLETED

    trainer = Trainer(
        args(rollout_batch_size=1), custom_rm, generate, SimpleNamespace(tokenizer=Tokenizer())
    )
    asyncio.run(trainer.generate_rollout_async(0, [[sample]]))
    (request,) = judge.requests
    shown = "\n".join(content for _, content in request.messages())
    assert "callTOOL" not in shown
    assert "TOOL RESULT" in shown
