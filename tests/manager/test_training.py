"""Two trainings on one backend never share a group; the processes of one training do."""

import asyncio
import json
import pickle
import socket
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from oyer.demo.judge_server import JudgeServer
from oyer.manager import RewardManager, openrlhf, slime
from oyer.manager.score import Score
from oyer.manager.training import is_first_process, training_name
from oyer.manager.trl import RewardFunction
from tests.manager.test_slime import samples
from tests.support.scripted_backend import Running, rollout, sibling
from tests.support.served_app import served

WAIT_S = 60.0

TORCHRUN = {"TORCHELASTIC_RUN_ID": "none", "MASTER_ADDR": "gpu-1", "MASTER_PORT": "29500"}
ONE_HOST = {"WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "8", "MASTER_ADDR": "127.0.0.1"}


@pytest.fixture(scope="module")
def backend_changes() -> dict[str, Any]:
    return {"length": {"method": "median_band"}}


@pytest.fixture
def two(running: Running) -> list[RewardManager]:
    """The managers of two trainings."""
    return [sibling(running[0]) for _ in range(2)]


def group(tag: str, tokens: int, n: int = 4) -> list[Any]:
    """Rollouts of one length, all of group 0: within them, no length term is due."""
    return [
        rollout(f"{tag} {tokens}", i, group_id="0", prompt=f"{tag}?", response_tokens=tokens)
        for i in range(n)
    ]


def lengths_of(scores: list[Score]) -> list[float]:
    return [score.length_term for score in scores]


def test_what_a_launcher_tells_its_processes_names_the_training() -> None:
    ranks = {"WORLD_SIZE": "16", "LOCAL_WORLD_SIZE": "8", **TORCHRUN}
    assert training_name(ranks) == training_name({**ranks, "RANK": "9", "LOCAL_RANK": "1"})
    assert training_name(ranks) != training_name({**ranks, "MASTER_PORT": "29501"})
    assert training_name(ranks) != training_name({**ranks, "TORCHELASTIC_RUN_ID": "b"})
    # The default address of a single host is the same for two trainings on two hosts.
    assert socket.gethostname() in str(training_name({**ONE_HOST, "TORCHELASTIC_RUN_ID": "none"}))
    step = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "4"}
    assert training_name(step) == training_name({**step, "SLURM_PROCID": "3"})
    assert training_name(step) != training_name({**step, "SLURM_STEP_ID": "1"})


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"WORLD_SIZE": "1", **TORCHRUN},
        # Two trainings in one batch script have its job and no step.
        {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4"},
        {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "1"},
    ],
)
def test_without_other_processes_no_launcher_names_the_training(environ: dict[str, str]) -> None:
    assert training_name(environ) is None


@pytest.mark.parametrize(
    ("environ", "first"),
    [
        ({}, True),
        ({"WORLD_SIZE": "1", "RANK": "0"}, True),
        ({"WORLD_SIZE": "8", "RANK": "0"}, True),
        ({"WORLD_SIZE": "8", "RANK": "3"}, False),
        ({"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "0"}, True),
        ({"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "2"}, False),
    ],
)
def test_one_process_of_a_launch_is_the_first(environ: dict[str, str], first: bool) -> None:
    assert is_first_process(environ) == first


def test_the_processes_of_a_ray_job_are_one_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray is not a dependency: a stand-in has its public calls."""
    context = SimpleNamespace(gcs_address="10.0.0.1:6379", get_job_id=lambda: "02000000")
    ray = SimpleNamespace(is_initialized=lambda: True, get_runtime_context=lambda: context)
    monkeypatch.setitem(__import__("sys").modules, "ray", ray)
    # Ray's actors have the ranks of whatever they are part of.
    assert training_name(ONE_HOST) == training_name({}) == "ray 10.0.0.1:6379 02000000"


def test_a_manager_carries_its_training_to_other_processes(two: list[RewardManager]) -> None:
    first, second = two
    assert first.training != second.training
    assert pickle.loads(pickle.dumps(first)).training == first.training
    assert first.under(first.config).training == first.training


def test_groups_of_two_managers_without_a_run_stay_apart(
    two: list[RewardManager], judge: JudgeServer
) -> None:
    groups = [group("managers", 100), group("managers", 1000)]
    pending = [
        manager.score(one, group_size=4)
        for pair in zip(*groups, strict=True)
        for manager, one in zip(two, pair, strict=True)
    ]
    assert lengths_of([one.result(WAIT_S) for one in pending]) == [0.0] * 8


def test_managers_that_name_one_run_gather_together(
    two: list[RewardManager], judge: JudgeServer
) -> None:
    members = group("named", 100, 3) + group("named", 160, 1)
    pending = [two[i % 2].score(one, run="ours", group_size=4) for i, one in enumerate(members)]
    assert lengths_of([one.result(WAIT_S) for one in pending]) == pytest.approx([0, 0, 0, -1])


@pytest.mark.parametrize("named", [{}, {"oyer_run": "both"}])
def test_two_slime_trainings_stay_apart(
    running: Running,
    judge: JudgeServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    named: dict[str, str],
) -> None:
    """Both number their groups from 0, and with one run name they still ask other prompts."""
    file = tmp_path / "oyer.yaml"
    file.write_text(json.dumps(running[0].config.model_dump(mode="json")))
    monkeypatch.setenv("OYER_CONFIG", str(file))
    both = [samples("slime a", (100,) * 4, group=0), samples("slime b", (900,) * 4, group=0)]
    for sample in both[1]:
        sample.prompt = "Another?"

    async def all_of(sizes: list[float]) -> list[Any]:
        # A manager belongs to a time-out: two of them stand for the two trainings.
        calls = [
            slime.custom_rm(
                SimpleNamespace(n_samples_per_prompt=4, oyer_timeout_s=timeout_s, **named), sample
            )
            for pair in zip(*both, strict=True)
            for timeout_s, sample in zip(sizes, pair, strict=True)
        ]
        return await asyncio.gather(*calls)

    rewards = asyncio.run(all_of([WAIT_S, WAIT_S + 1]))
    assert len({round(reward, 6) for reward in rewards}) == 1


def test_two_trl_trainings_on_the_same_data_stay_apart(
    running: Running, judge: JudgeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two ranks each, which one launcher per training started."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    functions = []
    for port in ("29500", "29501"):
        monkeypatch.setenv("MASTER_PORT", port)
        functions.append([RewardFunction(sibling(running[0]), num_generations=4) for _ in range(2)])

    def call(function: RewardFunction, response: str, tokens: int) -> Any:
        return function.score(
            ["the same?"] * 2,
            [f"{response} 1.", f"{response} 2."],
            completion_ids=[[7] * tokens] * 2,
        )

    async def all_of() -> list[Any]:
        return await asyncio.gather(
            *(
                call(functions[training][rank], f"trl {training} {rank}", tokens)
                for rank in range(2)
                for training, tokens in enumerate((10, 100))
            )
        )

    rewards = [reward for row in asyncio.run(all_of()) for reward in row]
    assert rewards == pytest.approx([0.5] * 8)


def test_two_openrlhf_trainings_on_the_same_data_stay_apart(
    running: Running, judge: JudgeServer
) -> None:
    compared = {"length": {"method": "median_band", "unit": "chars"}}
    functions = [
        openrlhf.reward_function(sibling(running[0], **compared), group_size=2) for _ in range(2)
    ]
    rewards: list[Any] = [None] * 4

    def ask(i: int) -> None:
        text = "ab"[i // 2] * (10 if i % 2 == 0 else 100)
        rewards[i] = functions[i % 2]([f"same?{text}"], ["same?"], [None])["rewards"][0]

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert rewards == pytest.approx([0.5] * 4)


def test_trainings_that_share_a_server_stay_apart(running: Running, judge: JudgeServer) -> None:
    """By prompt, by the run that a URL names, and where whole groups of one id arrive together."""
    compared = sibling(running[0], length={"method": "median_band", "unit": "chars"})

    def body(prompt: str, chars: int, letters: str) -> dict[str, Any]:
        rows = [
            {"prompt": prompt, "response": x * chars, "group_id": 0, "base_score": 1.0}
            for x in letters
        ]
        return {"rollouts": rows}

    posts = [
        # Whole groups under one id.
        ("/v1/score", body("whole?", 10, "ab")),
        ("/v1/score", body("whole?", 100, "ab")),
        # Parts of groups under one id, of other prompts.
        ("/v1/score", {**body("first?", 10, "a"), "group_size": 2}),
        ("/v1/score", {**body("second?", 100, "a"), "group_size": 2}),
        ("/v1/score", {**body("first?", 10, "b"), "group_size": 2}),
        ("/v1/score", {**body("second?", 100, "b"), "group_size": 2}),
        # The same prompt, from trainings that name themselves.
        *(
            (f"/get_reward?run={run}", {"query": [f"one?{x * n}"], "prompts": ["one?"]})
            for x in "ab"
            for run, n in (("left", 10), ("right", 100))
        ),
    ]
    answers: list[Any] = [None] * len(posts)
    with served(compared, group_size=2) as server:

        def post(i: int) -> None:
            answers[i] = server.post(*posts[i]).json()["rewards"]

        threads = [threading.Thread(target=post, args=(i,)) for i in range(len(posts))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    rewards = [reward for answer in answers for reward in answer]
    assert rewards == pytest.approx([1.5] * 8 + [0.5] * 4)
