"""Lengths count the policy's own tokens, and prompts and completions may hold images."""

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from oyer.demo.judge_server import JudgeServer
from oyer.manager import slime
from oyer.manager.adapters import NeededFields
from oyer.manager.slime.samples import _own_ids, _own_tokens, rollout_of
from oyer.manager.trl.groups import groups_of
from oyer.manager.trl.reward import RewardFunction
from oyer.manager.verl.data import RowReading, read_row
from tests.manager.test_slime import samples
from tests.support.scripted_backend import Running, user_text
from tests.support.verl_data import Tokens, data_proto


class Image:
    """Stands for Pillow's class of this name, which a prompt may hold."""

    def __init__(self, pixels: bytes = b"") -> None:
        self.size, self.pixels = (len(pixels), 1), pixels

    def tobytes(self) -> bytes:
        """Give the pixels."""
        return self.pixels


@pytest.fixture(scope="module")
def backend_changes() -> dict[str, Any]:
    return {"length": {"method": "median_band"}}


def parts(text: str) -> list[dict[str, Any]]:
    content = [{"type": "image", "image": Image()}, {"type": "text", "text": text}]
    return [{"role": "user", "content": content}]


def test_slime_leaves_out_what_its_loss_mask_leaves_out(
    running: Running, judge: JudgeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "oyer.yaml"
    file.write_text(json.dumps(running[0].config.model_dump(mode="json")))
    monkeypatch.setenv("OYER_CONFIG", str(file))
    group: list[Any] = samples("masked", (40, 40, 40, 440))
    for sample in group:
        sample.prompt = parts("What is on it?")
        sample.tokens = [1, 2, *[7] * sample.response_length]
    group[3].loss_mask = [1] * 20 + [0] * 400 + [1] * 20
    rewards = asyncio.run(slime.group_rm(SimpleNamespace(reward_key=None), group))
    assert rewards == pytest.approx([0.5] * 4)
    text = user_text(judge.requests[0])
    assert "[image]\nWhat is on it?" in text


def test_slime_hands_over_the_policys_own_ids() -> None:
    (sample,) = samples("ids", (4,))
    sample.tokens = [1, 2, 11, 12, 13, 14]
    assert _own_ids(sample, _own_tokens(None, sample)) == [11, 12, 13, 14]
    sample.loss_mask = [1, 0, 0, 1]  # type: ignore[attr-defined]
    assert _own_ids(sample, _own_tokens(None, sample)) == [11, 14]


@pytest.mark.parametrize("known", [True, False], ids=["tokenizer", "common marks"])
def test_slime_judges_no_end_marks(known: bool) -> None:
    """By default slime keeps special tokens in the text, and sglang keeps what ended it."""
    tokenizer = SimpleNamespace(all_special_tokens=["<END>"]) if known else None
    mark = "<END>" if known else "<|im_end|>"
    (sample,) = samples("marks", (4,))
    sample.response = f"<|think|>So: 42.{mark}"
    needed = NeededFields(token_ids=False, metadata=frozenset())
    found = rollout_of(SimpleNamespace(), sample, needed, "g", tokenizer)
    assert found.response == "<|think|>So: 42."


def test_slime_shows_no_prompt_as_the_response() -> None:
    needed = NeededFields(token_ids=False, metadata=frozenset())
    asked, said = {"role": "user", "content": "6*7?"}, {"role": "assistant", "content": "42"}
    (sample,) = samples("prompt", (4,))
    shown = []
    for prompt, messages in [
        ("6*7?", [asked]),  # of the data set
        ("6*7?", [said]),
        ("6*7?", [asked, said]),
        ([asked, said, asked], [asked, said, asked, said]),
    ]:
        sample.prompt, sample.metadata = prompt, {"messages": messages}
        shown.append(rollout_of(SimpleNamespace(), sample, needed, "g").response)
    assert shown == ["prompt 0.", [said], [said], [said]]


def test_verl_leaves_out_what_its_response_mask_leaves_out() -> None:
    tokens = Tokens()
    data = data_proto(tokens, ["p"], ["r"], [6], raw_prompt=[np.array(parts("Look."), object)])
    data.batch["responses"][0, :6] = torch.arange(6)
    data.batch["response_mask"] = torch.zeros_like(data.batch["responses"])
    data.batch["response_mask"][0, [0, 1, 5]] = 1
    tokens.texts += [""] * 6
    needed = NeededFields(token_ids=True, metadata=frozenset())
    row = read_row(data, 0, RowReading(tokenizer=tokens, needed=needed))
    assert (row.response_tokens, row.token_ids) == (3, [0, 1, 5])
    assert row.prompt == [{"role": "user", "content": "[image]\nLook."}]


def test_trl_judges_the_texts_of_parts_and_counts_own_tokens(
    running: Running, judge: JudgeServer
) -> None:
    completions = [
        [{"role": "assistant", "content": [{"type": "text", "text": f"五 {i}。"}]}]
        for i in range(2)
    ]
    function = RewardFunction(running[0], num_generations=2)
    rewards = asyncio.run(
        function.score(
            [parts("几？")] * 2,
            completions,
            completion_ids=[[7] * 4, [7] * 20],
            tool_mask=[[1] * 4, [1, 1, *[0] * 16, 1, 1]],
        )
    )
    assert rewards == pytest.approx([0.5, 0.5])
    texts = [user_text(request) for request in judge.requests]
    assert all("[image]\n几？" in text and "五 " in text and "\\u" not in text for text in texts)


def test_trl_names_groups_by_their_images_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    prompts = [
        [{"role": "user", "content": [{"type": "image", "image": Image(pixels)}]}]
        for pixels in (b"a", b"b", b"a")
    ]
    groups = groups_of(prompts, {}, num_generations=2, column=None, call="", compared=True)
    first, other, again = groups.ids
    assert groups.spread
    assert first == again != other
