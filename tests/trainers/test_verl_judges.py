"""verl's reward loop with a judge of criteria and a group judge: its components are the record's."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch
from trainer_backend import COMPONENTS, JUDGES_OF_KINDS, Backend, answer_by_kind, components_of
from verl.experimental.reward_loop.reward_loop import RewardLoopManager
from verl.trainer.ppo.core_algos import compute_gdpo_outcome_advantage
from verl_setup import (
    PROMPT_WIDTH,
    batch_of,
    config_of,
    made_tokenizer,  # noqa: F401 - a fixture, as the two below
    ray_on_loopback,  # noqa: F401
    written_score_file,  # noqa: F401
)

GROUP = 4


def test_the_components_that_verl_sees_are_those_on_record(
    backend: Backend, tokenizer: Any, tokenizer_folder: Path, score_file: Path
) -> None:
    backend.judge.set_plan(answer_by_kind)
    file = backend.file("kinds.yaml", judges=JUDGES_OF_KINDS, length=[])
    oyer = {"config": str(file), "run": "verl-kinds"}
    loop = RewardLoopManager(config_of(tokenizer_folder, score_file, oyer))
    responses = [f"by kind {i}" for i in range(2 * GROUP)]
    data = batch_of(tokenizer, responses, uid=["kinds 0", "kinds 1"] * GROUP)
    try:
        scored = loop.compute_rm_score(data)
    finally:
        for worker in loop.reward_loop_workers:
            ray.kill(worker)
    columns = scored.non_tensor_batch
    assert columns["judge_status"].tolist() == ["scored"] * len(responses)
    recorded = backend.components("verl-kinds")
    assert recorded.keys() == set(responses)
    for i, text in enumerate(responses):
        seen = {name: columns[f"oyer/{name}"][i] for name in COMPONENTS}
        assert seen == pytest.approx(recorded[text], abs=1e-6)
        assert seen == pytest.approx(components_of(text), abs=1e-6)
    assert all(set(columns[f"oyer/{name}_present"]) == {1.0} for name in COMPONENTS)
    # Both judges have the default weight 0.1, and the base score is 1.
    expected = [
        1 + 0.1 * one["rubric"] + 0.1 * one["ranking"] for one in map(components_of, responses)
    ]
    np.testing.assert_allclose(scored.batch["rm_scores"].sum(-1), expected, atol=1e-5)
    lists = [one for one in backend.judge.requests if '"scores"' in str(one.json()["messages"])]
    assert len(lists) == 2
    advantages, _ = compute_gdpo_outcome_advantage(
        scored.batch["rm_scores"],
        data.batch["attention_mask"][:, PROMPT_WIDTH:],
        data.non_tensor_batch["uid"],
        config={"gdpo_reward_keys": [f"oyer/{name}" for name in COMPONENTS[1:]]},
        non_tensor_batch=columns,
        batch=data.batch,
    )
    assert torch.isfinite(advantages).all()
    assert advantages.count_nonzero() > 0
