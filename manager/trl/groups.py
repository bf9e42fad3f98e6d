"""Which rows of a call of TRL form a group.

TRL repeats each prompt `num_generations` times in a row and splits the rows over ranks in order, so a
row's place decides its group. Prompts do not: an environment gives each rollout an observation of its
own, and a data set may repeat a prompt.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import groupby
from typing import Any

from oyer.protocol.errors import InvalidConfig


@dataclass(frozen=True)
class RowGroups:
    """The groups of one call's rows."""

    ids: list[str]
    """Each row's group; equal on all ranks if groups are spread over them."""
    size: int | None
    """Rows of a group over all ranks; None if it is not known."""
    spread: bool
    """Whether some groups have rows on other ranks."""


def trainer_of(columns: Mapping[str, Any]) -> Any:
    """Return TRL's trainer, or None.

    TRL does not pass it to reward functions. It is the instance behind the bound method `log_metric`;
    a `rollout_func`, which is given the trainer, passes it to `submit` as `trainer`.
    """
    # A data set may have a column of this name.
    given = (columns.get("trainer"), getattr(columns.get("log_metric"), "__self__", None))
    return next((one for one in given if hasattr(one, "num_generations")), None)


def is_training(trainer: Any) -> bool | None:
    """Whether a trainer trains; False if it evaluates, None if it is not known."""
    model = getattr(trainer, "model", None)
    return None if model is None else bool(model.training)


def generations_of(trainer: Any) -> int:
    """Return the rows per prompt of a trainer, which an evaluation may set differently."""
    size = trainer.num_generations
    if is_training(trainer) is False:
        size = getattr(trainer, "num_generations_eval", size)
    return int(size)


def ranks() -> int:
    """Return the number of training processes, from torchrun or accelerate."""
    return int(os.environ.get("WORLD_SIZE") or 1)


def groups_of(
    prompts: Sequence[Any],
    columns: Mapping[str, Any],
    *,
    num_generations: int | None,
    column: str | None,
    call: str,
    compared: bool,
) -> RowGroups:
    """Group the rows of one call.

    Args:
        prompts: `[N]`.
        columns: what TRL passed beside them.
        num_generations: rows per prompt where no trainer is known.
        column: names the column that identifies a group where no trainer is known.
        call: distinguishes calls in group ids; the same on all ranks.
        compared: whether the configuration compares the rows of a group; else ranks need not meet.
    """
    several = compared and ranks() > 1
    trainer = trainer_of(columns)
    if trainer is not None:
        accelerator = getattr(trainer, "accelerator", None)
        rank = getattr(accelerator, "process_index", 0)
        return _by_place(len(prompts), generations_of(trainer), rank, several, call)
    if num_generations is not None and len(prompts) == num_generations:
        # AsyncGRPO scores one group per call; its prompts differ if environments add to them.
        return _by_place(len(prompts), num_generations, 0, False, call)
    values = columns.get(column or "") or ()
    shared = values if len(values) and all(values) else prompts
    return _by_value(shared, columns, num_generations, several)


def _by_place(count: int, size: int, rank: int, several: bool, call: str) -> RowGroups:
    """Group by place; ranks have equally many rows, because TRL gathers their rewards."""
    spread = several and count % size != 0
    first = rank * count if spread else 0
    prefix = f"{call}." if spread else ""
    return RowGroups([f"{prefix}{(first + i) // size}" for i in range(count)], size, spread)


def _by_value(
    values: Sequence[Any], columns: Mapping[str, Any], size: int | None, several: bool
) -> RowGroups:
    """Group adjacent rows with equal values, at most `size`; for ms-swift and rollout functions."""
    runs = [len(list(rows)) for _, rows in groupby(values)]
    if several and size is None:
        raise InvalidConfig(
            "num_generations: is required with several ranks, because a group may be spread over"
            " them; pass the trainer's value"
        )
    if several and size is not None and any(run % size for run in runs):
        texts = [json.dumps(value, sort_keys=True, default=_fingerprint) for value in values]
        step = getattr(columns.get("trainer_state"), "global_step", None)
        return RowGroups([f"{step}.{_digest(text.encode())}" for text in texts], size, spread=True)
    ids = [f"{run}.{i // (size or count)}" for run, count in enumerate(runs) for i in range(count)]
    return RowGroups(ids, size, spread=False)


def _digest(content: bytes) -> str:
    return sha256(content).hexdigest()[:32]


def _fingerprint(value: Any) -> str:
    """Return a digest of an image or array in a prompt."""
    held = value.tobytes() if hasattr(value, "tobytes") else repr(value).encode()
    return f"{type(value).__name__} {getattr(value, 'size', '')} {_digest(held)}"
