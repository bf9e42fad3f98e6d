"""Reads the columns that TRL passes to a reward function, and logs reward terms to TRL."""

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
"""The column in which a `rollout_func` passes the tickets of `submit`."""

_MASKS = ("tool_mask", "env_mask")
"""Columns that mark the completion tokens of the policy with 1 and those of tools with 0."""

NOT_SUBMITTED = "-"
"""Replaces the row number in the ticket of a row that was not submitted."""

UNREADABLE = Score(status=Status.REJECTED, error="the row cannot be scored; see the log")


def group_ids(prompts: Texts, num_generations: int | None) -> list[str]:
    """Return each row's group id; adjacent rows of one prompt, at most `num_generations`, share it."""
    named: list[str] = []
    for run, (_, rows) in enumerate(groupby(prompts)):
        count = len(list(rows))
        named += [f"{run}.{i // (num_generations or count)}" for i in range(count)]
    return named


def group_size(columns: Mapping[str, Any], num_generations: int | None) -> int | None:
    """Return the number of rows per prompt, which an evaluation may set differently.

    TRL does not pass a reward function whether it evaluates, so it is read from the trainer, which is
    the instance behind the bound method `log_metric`.
    """
    trainer = getattr(columns.get("log_metric"), "__self__", None)
    model = getattr(trainer, "model", None)
    if num_generations is None or model is None or model.training:
        return num_generations
    return getattr(trainer, "num_generations_eval", num_generations)


def are_spread(prompts: Texts, num_generations: int) -> bool:
    """Whether some groups are incomplete on this rank because other ranks have their rows."""
    return any(len(list(rows)) % num_generations for _, rows in groupby(prompts))


def shared_group_ids(prompts: Texts, step: int | None) -> list[str]:
    """Return group ids that are equal on all ranks, from prompt (with images) and step."""
    written = [json.dumps(prompt, sort_keys=True, default=_fingerprint) for prompt in prompts]
    return [f"{step}.{sha256(text.encode()).hexdigest()[:32]}" for text in written]


def _fingerprint(value: Any) -> str:
    """Return a digest of an image or array in a prompt."""
    held = value.tobytes() if hasattr(value, "tobytes") else repr(value).encode()
    return f"{type(value).__name__} {getattr(value, 'size', '')} {sha256(held).hexdigest()}"


def log_terms(scores: Sequence[Score], columns: Mapping[str, Any]) -> None:
    """Log the terms, under the same names on every rank and in every step."""
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
    """Return a completion as text: contents and tool calls, other roles with a `[role]` heading."""
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


def policy_token_ids(columns: Mapping[str, Any], i: int) -> list[int] | None:
    """Return a row's token ids, without tool tokens if there is a mask.

    TRL passes no mask to reward functions; a `rollout_func` may return one as a column.
    """
    ids = columns.get("completion_ids")
    if ids is None:
        return None
    masks = next((columns[name] for name in _MASKS if columns.get(name) is not None), None)
    if masks is None or masks[i] is None or len(masks[i]) != len(ids[i]):
        return list(ids[i])
    return [token for token, own in zip(ids[i], masks[i], strict=True) if own]


def step_of(columns: Mapping[str, Any]) -> int | None:
    """Return the training step, or None if TRL did not pass it."""
    state = columns.get("trainer_state")
    return None if state is None else int(state.global_step)


def ranks() -> int:
    """Return the number of training processes, from torchrun or accelerate."""
    return int(os.environ.get("WORLD_SIZE") or 1)


def in_row_order(scores: Sequence[Score], rows: Sequence[int], size: int) -> list[Score]:
    """Return one score per row; rows not listed get `UNREADABLE`."""
    placed = [UNREADABLE] * size
    for row, score in zip(rows, scores, strict=True):
        placed[row] = score
    return placed


async def collect_tickets(tickets: Sequence[str]) -> list[Score]:
    """Wait for rows that were submitted early, by their tickets."""
    places = [ticket.rpartition("#") for ticket in tickets]
    if not all(ticket and (row == NOT_SUBMITTED or row.isdecimal()) for ticket, _, row in places):
        raise InvalidInput(f"{TICKETS}: is not a ticket from `submit`; pass tickets on unchanged")
    batches = {
        ticket: scores_of(await RewardFuture.from_ticket(ticket))
        for ticket in dict.fromkeys(ticket for ticket, _, _ in places)
    }
    return [
        UNREADABLE if row == NOT_SUBMITTED else batches[ticket][int(row)]
        for ticket, _, row in places
    ]
