"""Reads what TRL hands a reward function, and tells TRL what the rewards are made of."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from hashlib import sha256
from itertools import groupby
from typing import Any

import numpy as np

from oyer.manager.future import RewardFuture
from oyer.manager.score import Score, scores_of
from oyer.protocol.content import content_text, plain_json
from oyer.protocol.errors import InvalidInput
from oyer.protocol.rollout import Message
from oyer.protocol.status import Status

Texts = Sequence[str | list[Message]]

TICKETS = "oyer_ticket"
"""The column in which a `rollout_func` hands over what `submit` gave it."""

_MASKS = ("tool_mask", "env_mask")
"""Columns that say which of a completion's tokens the policy wrote: 1, or 0 for a tool's."""

NOWHERE = "-"
"""Stands in a ticket for the place of a row that stayed behind."""

UNREADABLE = Score(status=Status.REJECTED, error="the row cannot be scored; see the log")


def group_ids(prompts: Texts, num_generations: int | None) -> list[str]:
    """Name the group of each row: neighbouring rows of one prompt, `num_generations` at most."""
    named: list[str] = []
    for run, (_, rows) in enumerate(groupby(prompts)):
        count = len(list(rows))
        named += [f"{run}.{i // (num_generations or count)}" for i in range(count)]
    return named


def group_size(columns: Mapping[str, Any], num_generations: int | None) -> int | None:
    """How many rows of one prompt there are: in an evaluation, maybe another number.

    TRL tells no reward function whether it evaluates. Its trainer knows, whose method `log_metric`
    is.
    """
    trainer = getattr(columns.get("log_metric"), "__self__", None)
    model = getattr(trainer, "model", None)
    if num_generations is None or model is None or model.training:
        return num_generations
    return getattr(trainer, "num_generations_eval", num_generations)


def are_spread(prompts: Texts, num_generations: int) -> bool:
    """Whether groups are spread over ranks: some lack rows here that another rank has."""
    return any(len(list(rows)) % num_generations for _, rows in groupby(prompts))


def shared_group_ids(prompts: Texts, step: int | None) -> list[str]:
    """Name the group of each row alike on every rank: by its prompt, images too, and the step."""
    written = [json.dumps(prompt, sort_keys=True, default=_fingerprint) for prompt in prompts]
    return [f"{step}.{sha256(text.encode()).hexdigest()[:32]}" for text in written]


def _fingerprint(value: Any) -> str:
    """Tell images and arrays in prompts apart by what they hold."""
    held = value.tobytes() if hasattr(value, "tobytes") else repr(value).encode()
    return f"{type(value).__name__} {getattr(value, 'size', '')} {sha256(held).hexdigest()}"


def tell(scores: Sequence[Score], columns: Mapping[str, Any]) -> None:
    """Log the terms: the same names on every rank and in every step."""
    parts = {
        "oyer/judge_score": [score.judge_score for score in scores],
        "oyer/judge_term": [score.judge_term for score in scores],
        "oyer/length_term": [score.length_term for score in scores],
    }
    log_metric, log_extra = columns.get("log_metric"), columns.get("log_extra")
    if log_metric is not None:
        for name, values in parts.items():
            known = [value for value in values if math.isfinite(value)]
            log_metric(name, float(np.mean(known)) if known else math.nan)
        log_metric("oyer/missing", sum(not score.trainable for score in scores) / len(scores))
    if log_extra is not None:
        for name, values in parts.items():
            log_extra(name, values)
        log_extra("oyer/judge_status", [score.status for score in scores])


def text_of(completion: str | list[Message]) -> str:
    """The completion as text: contents and tool calls of its messages, others' under their role."""
    if isinstance(completion, str):
        return completion
    parts, before = [], "assistant"
    for message in completion:
        role = message.get("role") or "assistant"
        if role != "assistant":
            parts.append(f"[{role}]")
        elif before != "assistant":
            parts.append("[assistant]")
        before = role
        if message.get("content"):
            parts.append(content_text(message["content"]))
        if message.get("tool_calls"):
            parts.append(plain_json(message["tool_calls"]))
    return "\n".join(parts)


def own_ids(columns: Mapping[str, Any], i: int) -> list[int] | None:
    """Return a row's token ids, without those of tools where a mask is handed over.

    TRL hands reward functions no mask of its own; a `rollout_func` may give one as a column.
    """
    ids = columns.get("completion_ids")
    if ids is None:
        return None
    masks = next((columns[name] for name in _MASKS if columns.get(name) is not None), None)
    if masks is None or masks[i] is None or len(masks[i]) != len(ids[i]):
        return list(ids[i])
    return [token for token, own in zip(ids[i], masks[i], strict=True) if own]


def step_of(columns: Mapping[str, Any]) -> int | None:
    """Read the training step; None for a scorer that is not told."""
    state = columns.get("trainer_state")
    return None if state is None else int(state.global_step)


def ranks() -> int:
    """How many processes train, as torchrun and accelerate tell each of them."""
    return int(os.environ.get("WORLD_SIZE") or 1)


def in_place(scores: Sequence[Score], rows: Sequence[int], size: int) -> list[Score]:
    """Put scores back to their rows, those between them being unreadable."""
    placed = [UNREADABLE] * size
    for row, score in zip(rows, scores, strict=True):
        placed[row] = score
    return placed


async def redeemed(tickets: Sequence[str]) -> list[Score]:
    """Collect what was submitted early, row by row."""
    places = [ticket.rpartition("#") for ticket in tickets]
    if not all(ticket and (row == NOWHERE or row.isdecimal()) for ticket, _, row in places):
        raise InvalidInput(f"{TICKETS}: holds what `submit` did not give; pass it on unchanged")
    batches = {
        ticket: scores_of(await RewardFuture.from_ticket(ticket))
        for ticket in dict.fromkeys(ticket for ticket, _, _ in places)
    }
    return [
        UNREADABLE if row == NOWHERE else batches[ticket][int(row)] for ticket, _, row in places
    ]
