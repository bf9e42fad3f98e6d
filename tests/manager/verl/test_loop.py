"""verl's reward loop: one trajectory a call, never blocking, the same keys whatever happens."""

import asyncio
import functools
import json
import pickle
import subprocess
import sys
import threading
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from oyer.demo.judge_server import JudgeServer
from oyer.demo.responses import Action
from oyer.manager import InvalidConfig
from oyer.manager.verl import RewardManager
from tests.support.scripted_backend import Running, by_response
from tests.support.verl_data import FakeDataProto, Tokens, base_from_extra_info, data_proto
from tests.support.verl_loop import manager_of, scored, trajectories


@pytest.fixture
def oyer(running: Running) -> dict[str, Any]:
    """The reward configuration, as verl's own configuration holds it in place."""
    return running[0].config.model_dump(mode="json")


def test_each_trajectory_has_its_reward_and_its_terms(
    judge: JudgeServer, oyer: dict[str, Any]
) -> None:
    judge.set_plan(by_response({f"terms {i}.": i + 1 for i in range(8)}))
    tokens = Tokens()
    data = trajectories(tokens, "terms", [10] * 8, global_steps=[3] * 8)
    results = scored(manager_of(tokens, oyer), data)
    assert [r["reward_score"] for r in results] == pytest.approx([1 + 0.1 * i for i in range(1, 9)])
    infos = [r["reward_extra_info"] for r in results]
    assert [info["judge_score"] for info in infos] == list(range(1, 9))
    assert {info["judge_status"] for info in infos} == {"scored"}
    assert {info["acc"] for info in infos} == {1.0}


def test_of_several_rows_the_last_is_scored(judge: JudgeServer, oyer: dict[str, Any]) -> None:
    judge.set_plan(by_response({"turns 0.": 1, "turns 1.": 9}))
    tokens = Tokens()
    manager = manager_of(tokens, oyer)
    result = asyncio.run(manager.run_single(trajectories(tokens, "turns", [4, 4])))
    assert result["reward_extra_info"]["judge_score"] == 9


def test_a_group_is_assembled_from_single_calls(judge: JudgeServer, oyer: dict[str, Any]) -> None:
    tokens = Tokens()
    manager = manager_of(tokens, {**oyer, "length": {"method": "median_band"}}, n=4)
    data = trajectories(tokens, "group", [10, 10, 10, 16])
    data.non_tensor_batch["extra_info"][:] = [{"base": 1.0}] * 4
    results = scored(manager, data)
    assert [r["reward_score"] for r in results] == pytest.approx([1.5, 1.5, 1.5, 0.5])
    lengths = [r["reward_extra_info"]["length_term"] for r in results]
    assert lengths == pytest.approx([0, 0, 0, -1])


def test_two_samples_with_one_text_are_two_of_their_group(
    judge: JudgeServer, oyer: dict[str, Any]
) -> None:
    tokens = Tokens()
    manager = manager_of(tokens, {**oyer, "length": {"method": "median_band"}}, n=2)
    one = trajectories(tokens, "twin", [10])
    data = FakeDataProto(
        {name: torch.cat([t, t]) for name, t in one.batch.items()},
        {name: np.concatenate([c, c]) for name, c in one.non_tensor_batch.items()},
    )
    assert [r["reward_score"] for r in scored(manager, data)] == pytest.approx([1.5, 1.5])
    assert len(judge.requests) == 1


def test_scorers_of_every_kind_are_called_off_the_loop(
    judge: JudgeServer, oyer: dict[str, Any]
) -> None:
    """verl wraps a custom function in `partial`; an async one stays on the loop."""
    threads: list[str] = []

    def sync(**given: Any) -> dict[str, float]:
        threads.append(threading.current_thread().name)
        return {"score": 0.5, "acc": 1.0}

    async def coroutine(**given: Any) -> float:
        threads.append(threading.current_thread().name)
        return 0.25

    tokens = Tokens()
    for scorer, base in ((functools.partial(sync), 0.5), (functools.partial(coroutine), 0.25)):
        manager = manager_of(tokens, oyer, compute_score=scorer)
        (result,) = scored(manager, trajectories(tokens, f"kind {base}", [3]))
        assert result["reward_extra_info"]["base_score"] == base
    assert threads[0] != threading.main_thread().name
    assert threads[1] == threading.main_thread().name


def test_a_slow_judge_does_not_block_the_loop(judge: JudgeServer, oyer: dict[str, Any]) -> None:
    judge.set_plan(Action(text="Final score: 5", hold=True))
    tokens = Tokens()
    manager = manager_of(tokens, oyer)
    data = trajectories(tokens, "slow", [3])

    async def main() -> float:
        waiting = asyncio.create_task(manager.run_single(data))
        await asyncio.to_thread(judge.wait_until, lambda log: len(log) == 1)
        assert not waiting.done()
        judge.release()
        return float((await waiting)["reward_score"])

    assert asyncio.run(main()) == pytest.approx(1.5)


def test_rewards_are_placed_at_the_last_token() -> None:
    data = data_proto(Tokens(), ["q"] * 4, ["a"] * 4, [7, 3, 1, 4])
    placed = RewardManager.assemble_rm_scores(data, [0.5, 1.5, 2.5, 3.5])
    assert placed.dtype == torch.float32
    assert placed.nonzero().tolist() == [[0, 6], [1, 2], [2, 0], [3, 3]]
    assert placed[1, 2] == 1.5


def test_options_are_read_from_attributes_and_checked(oyer: dict[str, Any]) -> None:
    options = {"config": oyer, "timeout_s": 7}
    config = SimpleNamespace(reward=SimpleNamespace(reward_kwargs=SimpleNamespace(oyer=options)))
    manager = RewardManager(config, Tokens(), base_from_extra_info)
    assert manager.options.timeout_s == 7
    with pytest.raises(InvalidConfig, match=r"reward_kwargs\.oyer: timeout"):
        manager_of(Tokens(), oyer, timeout=7)


def test_importing_it_loads_neither_verl_nor_torch() -> None:
    code = (
        "import sys, json, oyer.manager.verl, oyer.manager.trl.reward, oyer.manager.openrlhf,"
        " oyer.manager.slime;"
        "print(json.dumps([n for n in ('verl','torch','trl','transformers','sqlalchemy','gevent')"
        " if n in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


def test_it_can_be_pickled(oyer: dict[str, Any], judge: JudgeServer) -> None:
    tokens = Tokens()
    data = trajectories(tokens, "pickled", [3])
    copy = pickle.loads(pickle.dumps(manager_of(tokens, oyer)))
    assert scored(copy, data)[0]["reward_score"] == pytest.approx(1.5)
