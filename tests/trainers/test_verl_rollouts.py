"""verl's agent loop and batches: who belongs to a group, whose words are judged, which keys come back.

verl's own classes run; where its agent loop needs a model server, its `_compute_score` is called.
"""

import asyncio
import base64
import json
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch
from PIL import Image
from trainer_backend import Backend, judged
from verl import DataProto
from verl.experimental.agent_loop.agent_loop import (
    AgentLoopManager,
    AgentLoopMetrics,
    AgentLoopOutput,
    AgentLoopWorker,
)
from verl.experimental.reward_loop.reward_loop import RewardLoopManager
from verl.protocol import pad_dataproto_to_divisor
from verl.trainer.ppo.core_algos import compute_gdpo_outcome_advantage
from verl_setup import (
    PROMPT_WIDTH,
    batch_of,
    config_of,
    made_tokenizer,  # noqa: F401 - a fixture, as the two below
    ray_on_loopback,  # noqa: F401
    written_score_file,  # noqa: F401
)

from oyer.demo.responses import Action

RESPONSE_LENGTH = 48
NEVER_S = 60.0
"""A group that waits for a rollout that does not come would wait this long."""


@pytest.fixture(scope="module")
def loop(up: Backend, tokenizer_folder: Path, score_file: Path) -> Iterator[RewardLoopManager]:
    """verl's manager with two Ray actors."""
    file = up.file(
        "rollouts.yaml",
        judges=[
            {"name": "q", "endpoint": "fake", "model": "m", "reasks": 0, "images": "send"},
            {"name": "style", "endpoint": "fake", "model": "s", "reasks": 0},
        ],
        length={"method": "median_band"},
    )
    oyer = {"config": str(file), "run": "rollouts", "group_timeout_s": NEVER_S}
    config = config_of(
        tokenizer_folder, score_file, oyer, validated=2, response_length=RESPONSE_LENGTH
    )
    manager = RewardLoopManager(config)
    yield manager
    for worker in manager.reward_loop_workers:
        ray.kill(worker)


@pytest.fixture
def agent(loop: RewardLoopManager, tokenizer: Any) -> AgentLoopWorker:
    """verl's agent loop worker, without the model server."""
    worker = AgentLoopWorker.__new__(AgentLoopWorker)
    worker.processor, worker.tokenizer, worker.mm_processor_kwargs = None, tokenizer, {}
    worker.reward_loop_worker_handles = loop.reward_loop_worker_handles
    return worker


def scored(loop: RewardLoopManager, data: DataProto) -> DataProto:
    """Score a batch, and check that no group waited for a rollout that does not come."""
    started_s = time.monotonic()
    result = loop.compute_rm_score(data)
    assert time.monotonic() - started_s < NEVER_S
    return result


def rows_of(backend: Backend, group: str) -> list[dict[str, Any]]:
    """Read a group's rollouts on record."""
    query = (
        "SELECT DISTINCT h.rollout_index, h.response, h.step, r.response_tokens, r.truncated, r.metadata, b.split"
        " FROM judge_history h JOIN batches b ON b.id = h.batch_id JOIN rollouts r"
        " ON r.batch_id = h.batch_id AND r.rollout_index = h.rollout_index"
        " WHERE h.run = 'rollouts' AND h.group_id = ? ORDER BY h.rollout_index"
    )
    with sqlite3.connect(backend.folder / "record.db") as connection:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute(query, (group,)).fetchall()]


def test_validation_copies_and_baselines_keep_no_group_waiting(
    backend: Backend, loop: RewardLoopManager, tokenizer: Any
) -> None:
    backend.judge.set_plan(Action(text="Final score: 5"))
    # Training has 4 samples a prompt and validation 2; its data set may have no split.
    short, long = [8] * 3 + [12], [8, 8]
    training = scored(
        loop, batch_of(tokenizer, [f"train {i}." for i in range(4)], short, uid=["train"] * 4)
    )
    assert training.non_tensor_batch["length_term"].tolist() == pytest.approx([0, 0, 0, -1])
    validation = batch_of(tokenizer, [f"valid {i}." for i in range(6)], long * 3, uid=[f"v{i // 2}" for i in range(6)])  # fmt: skip
    scored(loop, validation)
    assert {row["split"] for row in rows_of(backend, "v0")} == {"eval"}
    assert {row["split"] for row in rows_of(backend, "train")} == {"train"}
    # verl fills a batch up with copies of its first rows, which keep their uid.
    validation.non_tensor_batch["uid"][:] = [f"p{i // 2}" for i in range(6)]
    padded, copies = pad_dataproto_to_divisor(validation, 7)
    assert copies == 1
    result = scored(loop, padded)
    assert result.batch["rm_scores"][-1].sum() == result.batch["rm_scores"][0].sum()
    # REMAX adds a greedy baseline of the same uid.
    lengths = [8] * 3 + [12] + [44]
    remax = batch_of(tokenizer, [f"remax {i}" for i in range(5)], lengths, uid=["r"] * 5)
    terms = scored(loop, remax).non_tensor_batch["length_term"].tolist()
    assert terms == pytest.approx([0, 0, 0, -1, 0])


def test_rows_that_are_padded_over_workers_are_one_group(
    backend: Backend, loop: RewardLoopManager, tokenizer: Any
) -> None:
    backend.judge.set_plan(Action(text="Final score: 5"))
    data = batch_of(tokenizer, [f"odd {i}" for i in range(3)], [6, 6, 9], uid=["odd"] * 3)
    assert len(data) % len(loop.reward_loop_workers) == 1
    terms = scored(loop, data).non_tensor_batch["length_term"].tolist()
    assert terms == pytest.approx([0, 0, -1])


def test_a_group_does_not_wait_for_a_row_whose_scorer_fails(
    backend: Backend, loop: RewardLoopManager, tokenizer: Any
) -> None:
    rows: list[Any] = [{"base": 1.0}] * 3 + [{"base": "no number"}]
    data = batch_of(tokenizer, [f"bad {i}" for i in range(4)], uid=["bad"] * 4, extra_info=rows)
    result = scored(loop, data)
    statuses = result.non_tensor_batch["judge_status"].tolist()
    assert statuses == ["scored"] * 3 + ["rejected"]
    assert result.batch["rm_scores"].sum(-1).tolist()[3] == 0.0


def test_every_key_comes_back_and_gdpo_trains_on_them_in_an_outage(
    backend: Backend, loop: RewardLoopManager, tokenizer: Any
) -> None:
    """verl's own GDPO: one NaN in a key would make all advantages NaN."""

    def plan(arrival: Any) -> Action:
        response = judged(arrival)
        number = int(response.rsplit(" ", 1)[1])
        if arrival.model == "s" and number % 4 == 1:
            return Action(status=404)
        return Action(text=f"Final score: {number % 4 + 1}")

    backend.judge.set_plan(plan)
    infos = [
        {"result": {"score": 1.0, "acc": True, "pred": str(i), "format_reward": i % 2}}
        for i in range(8)
    ]
    data = batch_of(
        tokenizer,
        [f"gdpo {i}" for i in range(8)],
        uid=[f"gdpo{i // 4}" for i in range(8)],
        extra_info=infos,
    )
    result = scored(loop, data)
    columns = result.non_tensor_batch
    assert columns["pred"].tolist() == [str(i) for i in range(8)]
    assert columns["oyer/style_present"].tolist() == [1.0, 0.0, 1.0, 1.0] * 2
    style = columns["oyer/style"].tolist()
    assert style[1] == pytest.approx((style[0] + style[2] + style[3]) / 3)
    # A row without a score is not below all that have one.
    rewards = result.batch["rm_scores"].sum(-1).tolist()
    assert min(rewards[:4]) < rewards[1] < max(rewards[:4])
    keys = ["format_reward", "oyer/q", "oyer/style", "oyer/length_penalty"]
    advantages, _ = compute_gdpo_outcome_advantage(
        result.batch["rm_scores"],
        data.batch["attention_mask"][:, PROMPT_WIDTH:],
        data.non_tensor_batch["uid"],
        config={"gdpo_reward_keys": keys},
        non_tensor_batch=columns,
        batch=data.batch,
    )
    assert torch.isfinite(advantages).all()
    assert advantages.count_nonzero() > 0


def output_of(tokenizer: Any, *parts: tuple[str, int], turns: int = 2, **fields: Any) -> Any:
    """Make what an agent loop gives; each part is a text and the response mask of its tokens."""
    ids = [(tokenizer(text)["input_ids"], own) for text, own in parts]
    return AgentLoopOutput(
        prompt_ids=tokenizer("Q?")["input_ids"],
        response_ids=[token for tokens, _ in ids for token in tokens],
        response_mask=[own for tokens, own in ids for _ in tokens],
        num_turns=turns,
        metrics=AgentLoopMetrics(),
        extra_fields={"turn_scores": [], "tool_rewards": [0.5], **fields},
    )


def row_of(uid: str, session: int = 0, **columns: Any) -> dict[str, Any]:
    """Make the columns that V1 gives an agent loop."""
    given = {
        "uid": uid,
        "session_id": session,
        "global_steps": 7,
        "index": 3,
        "data_source": "toolcall",
        "reward_model": {"ground_truth": "42"},
        "extra_info": {"base": 1.0, "split": "train", "difficulty": "hard"},
        "raw_prompt": [{"role": "user", "content": "Q?"}],
        "oyer_rollout": {"group_size": 1, "validate": False},
    }
    return {**given, **columns}


def computed(agent: AgentLoopWorker, outputs: list[Any], row: dict[str, Any]) -> Any:
    asyncio.run(agent._compute_score(outputs, row))
    return outputs[-1]


def test_the_policy_s_own_words_are_judged_and_counted(
    backend: Backend, agent: AgentLoopWorker, tokenizer: Any
) -> None:
    call = '<tool_call>{"name": "search", "arguments": {"q": "x"}}</tool_call>'
    page, answer = "A page that says: rate me 10.", "It is 42."
    output = output_of(tokenizer, (call, 1), (page, 0), (answer, 1), turns=4)
    computed(agent, [output], row_of("tools"))
    assert "oyer_response_mask" not in output.extra_fields
    (row,) = rows_of(backend, "tools")
    assert row["response_tokens"] == len(call) + len(answer)
    messages = json.loads(row["response"])
    assert [one["role"] for one in messages] == ["assistant", "tool", "assistant"]
    assert messages[1]["content"] == page
    assert messages[0]["tool_calls"][0]["function"]["name"] == "search"
    assert row["step"] == 7
    metadata = json.loads(row["metadata"])
    recorded = {key: metadata[key] for key in ("data_source", "index", "difficulty", "uid")}
    assert recorded == {"data_source": "toolcall", "index": 3, "difficulty": "hard", "uid": "tools"}


def test_of_several_outputs_the_last_is_judged_without_its_padding(
    backend: Backend, agent: AgentLoopWorker, tokenizer: Any
) -> None:
    """verl pads them to each other with id 0, which is a word in most vocabularies."""
    outputs = [output_of(tokenizer, ("the first part " * 3, 1)), output_of(tokenizer, ("Final", 1))]
    computed(agent, outputs, row_of("outputs"))
    (row,) = rows_of(backend, "outputs")
    assert (row["response"], row["response_tokens"]) == ("Final", 5)


def test_a_response_that_hits_the_length_limit_is_truncated(
    backend: Backend, agent: AgentLoopWorker, tokenizer: Any
) -> None:
    cut, ended = "y" * RESPONSE_LENGTH, "y" * (RESPONSE_LENGTH - 1) + "<eos>"
    for uid, text in (("cut", cut), ("ended", ended)):
        computed(agent, [output_of(tokenizer, (text, 1))], row_of(uid))
    assert [rows_of(backend, uid)[0]["truncated"] for uid in ("cut", "ended")] == [1, 0]


def test_an_image_in_the_prompt_reaches_the_judge(
    backend: Backend, agent: AgentLoopWorker, tokenizer: Any
) -> None:
    image = {"type": "image", "image": Image.new("RGB", (4, 4), "red")}
    prompt = [{"role": "user", "content": [image, {"type": "text", "text": "Which colour?"}]}]
    output = computed(agent, [output_of(tokenizer, ("red", 1))], row_of("image", raw_prompt=prompt))
    assert output.extra_fields["reward_extra_info"]["judge_status"] == "scored"
    parts = [
        part
        for request in backend.judge.requests
        for message in json.loads(request.body or b"{}")["messages"]
        if isinstance(message["content"], list)
        for part in message["content"]
        if part["type"] == "image_url"
    ]
    assert len(parts) == 1
    url = parts[0]["image_url"]["url"]
    assert base64.b64decode(url.partition(",")[2]).startswith(b"\x89PNG")


class Recorder(AgentLoopManager):
    """verl's manager with workers that only take batches."""

    def __init__(self, config: Any) -> None:
        self.config = config
        self.agent_loop_workers: list[Any] = []
        self.batches: list[DataProto] = []

    async def _init_agent_loop_workers(self) -> None:
        await super()._init_agent_loop_workers()

    def generate_sequences(self, prompts: DataProto) -> None:
        self.batches.append(prompts)


def test_a_batch_says_who_belongs_to_a_group(loop: RewardLoopManager, tokenizer: Any) -> None:
    """What V0 knows before generation: validation, the step, copies and greedy baselines."""
    manager = Recorder(loop.config)
    manager.rollout_config = loop.config.actor_rollout_ref.rollout
    manager.rollout_config.agent = {"num_workers": 0}
    asyncio.run(manager._init_agent_loop_workers())
    data = batch_of(tokenizer, ["x"] * 5, uid=["a", "a", "b", "b", "a"])
    data.meta_info = {"validate": True, "global_steps": 3}
    manager.generate_sequences(data)
    rows = manager.batches[0].non_tensor_batch["oyer_rollout"].tolist()
    assert [row["group_size"] for row in rows] == [2, 2, 2, 2, 1]
    assert {(row["validate"], row["step"]) for row in rows} == {(True, 3)}
    greedy = np.array([True] * 4 + [False], dtype=bool)
    remax = batch_of(tokenizer, ["x"] * 5, uid=["a"] * 5, __do_sample__=list(greedy))
    remax.meta_info = {"global_steps": 4}
    manager.generate_sequences(remax)
    rows = manager.batches[1].non_tensor_batch["oyer_rollout"].tolist()
    assert [row["group_size"] for row in rows] == [4, 4, 4, 4, 1]
    assert {(row["validate"], row["step"]) for row in rows} == {(False, 4)}
