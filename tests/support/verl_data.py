"""A `DataProto` as verl lays it out, and a tokenizer to decode it, without verl."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch


@dataclass
class Tokens:
    """Decodes ids by a list of texts; id 0 is padding and disappears with the special tokens."""

    texts: list[str] = field(default_factory=lambda: [""])
    eos_token: str = "<eos>"

    def encode(self, text: str) -> int:
        """Give a text an id of its own."""
        self.texts.append(text)
        return len(self.texts) - 1

    def decode(self, ids: Any, skip_special_tokens: bool = False) -> str:
        """Join the texts of some ids."""
        return "".join(self.texts[int(i)] for i in ids)


@dataclass
class FakeDataProto:
    """What the adapters use of verl's `DataProto`."""

    batch: dict[str, torch.Tensor]
    non_tensor_batch: dict[str, np.ndarray[Any, Any]]
    meta_info: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.batch["responses"])

    def __getitem__(self, rows: slice) -> "FakeDataProto":
        return FakeDataProto(
            {name: tensor[rows] for name, tensor in self.batch.items()},
            {name: column[rows] for name, column in self.non_tensor_batch.items()},
            self.meta_info,
        )


def data_proto(
    tokens: Tokens,
    prompts: Sequence[str],
    responses: Sequence[str],
    lengths: Sequence[int],
    **columns: Sequence[Any],
) -> FakeDataProto:
    """Lay rows out: prompts padded on the left, responses of `lengths` tokens on the right."""
    rows, width, prompt_width = len(prompts), max(lengths) + 3, 5
    batch = {
        "prompts": torch.zeros(rows, prompt_width, dtype=torch.int64),
        "responses": torch.zeros(rows, width, dtype=torch.int64),
        "attention_mask": torch.zeros(rows, prompt_width + width, dtype=torch.int64),
    }
    filler = tokens.encode("")
    for i in range(rows):
        batch["prompts"][i, -2:] = torch.tensor([tokens.encode(prompts[i]), filler])
        batch["attention_mask"][i, prompt_width - 2 : prompt_width + lengths[i]] = 1
        if lengths[i]:
            batch["responses"][i, : lengths[i]] = filler
            batch["responses"][i, 0] = tokens.encode(responses[i])
    given: dict[str, Sequence[Any]] = {
        "data_source": ["toolcall"] * rows,
        "reward_model": [{"ground_truth": "42"}] * rows,
        **columns,
    }
    return FakeDataProto(batch, {name: _objects(column) for name, column in given.items()})


def base_from_extra_info(
    data_source: str, solution_str: str, ground_truth: Any, extra_info: dict[str, Any]
) -> float:
    """A `compute_score` that gives what the test put into `extra_info`."""
    return float(extra_info["base"])


def _objects(values: Sequence[Any]) -> np.ndarray[Any, Any]:
    column = np.empty(len(values), dtype=object)
    column[:] = list(values)
    return column
