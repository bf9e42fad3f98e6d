"""Reads the columns that TRL and ms-swift pass to a reward function, and logs reward terms to TRL."""

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from celery.utils.log import get_logger

from oyer.manager.adapters import component_columns, row_metadata
from oyer.manager.messages import tools_problem
from oyer.manager.score import Score
from oyer.manager.trl.groups import is_training, ranks, trainer_of
from oyer.protocol.rollout import Message

log = get_logger(__name__)

Texts = Sequence[str | list[Message]]
Ids = Sequence[Sequence[int]]

TICKETS = "oyer_ticket"
"""The column in which a `rollout_func` passes the tickets of `submit`."""

MASKS = ("tool_mask", "env_mask")
"""Columns that mark the completion tokens of the policy with 1 and those of tools with 0."""

_NO_ROW_VALUES = (*MASKS, TICKETS, "completion_ids", "is_truncated", "finish_reason", "tools")
"""Columns that are not metadata of the data set's row."""


def own_token_ids(columns: Mapping[str, Any], completions: Texts, i: int) -> list[int] | None:
    """Return a row's token ids without those of tools; None if TRL passed no ids.

    The mask comes from a column, e.g. of a `rollout_func` or of `OverlappedRewards`. TRL passes none
    to reward functions; without a mask, the trainer encodes the tool messages again.
    """
    given = columns.get("completion_ids")
    if given is None:
        return None
    ids = list(given[i])
    masks = next((columns[name] for name in MASKS if columns.get(name) is not None), None)
    mask = None if masks is None else masks[i]
    if mask is None or len(mask) != len(ids):
        mask = _mask_from_messages(trainer_of(columns), completions[i], ids)
    if mask is None:
        return ids
    return [token for token, own in zip(ids, mask, strict=True) if own]


def _mask_from_messages(trainer: Any, completion: Any, ids: Sequence[int]) -> list[int] | None:
    """Mask the tokens that TRL added for tool messages; None if there are none or if unknown.

    TRL appends `_get_tool_suffix_ids` of each run of tool messages to the policy's tokens
    (`GRPOTrainer._tool_call_loop`).
    """
    blocks = [] if isinstance(completion, str) else list(_tool_blocks(completion))
    encode = getattr(trainer, "_get_tool_suffix_ids", None)
    if not blocks or encode is None:
        return None
    mask, at = [1] * len(ids), 0
    for block in blocks:
        suffix = list(encode(block))
        start = _find(ids, suffix, at)
        if start is None:
            log.warning(
                "a completion's tool tokens were not found; its length counts them too (use"
                " `OverlappedRewards`, which has TRL's own mask)"
            )
            return None
        at = start + len(suffix)
        mask[start:at] = [0] * len(suffix)
    return mask


def _tool_blocks(completion: Sequence[Mapping[str, Any]]) -> Iterator[list[Any]]:
    for role, messages in groupby(completion, key=lambda message: message.get("role")):
        if role == "tool":
            yield list(messages)


def _find(ids: Sequence[int], part: list[int], start: int) -> int | None:
    for at in range(start, len(ids) - len(part) + 1):
        if ids[at] == part[0] and list(ids[at : at + len(part)]) == part:
            return at
    return None


def truncated_rows(
    columns: Mapping[str, Any], count: int, eos_token_ids: frozenset[int]
) -> list[bool] | None:
    """Return whether generation hit the length limit, `[N]`; None if that is not known.

    ms-swift passes it as a column. In TRL, a completion that does not end in an end or padding token
    was cut, as in its metric `completions/clipped_ratio`.

    Args:
        eos_token_ids: end and padding tokens where no trainer is known.
    """
    if columns.get("is_truncated") is not None:
        return [bool(flag) for flag in columns["is_truncated"]]
    if columns.get("finish_reason") is not None:
        return [reason == "length" for reason in columns["finish_reason"]]
    trainer, ids = trainer_of(columns), columns.get("completion_ids")
    ends = eos_token_ids
    if hasattr(trainer, "eos_token_ids"):
        tokenizer = getattr(trainer, "_tokenizer", None) or trainer.processing_class
        ends = frozenset([*trainer.eos_token_ids, tokenizer.pad_token_id])
    if ids is None or not ends:
        return None
    return [len(ids[i]) > 0 and int(ids[i][-1]) not in ends for i in range(count)]


def tools_of(columns: Mapping[str, Any], count: int) -> list[list[dict[str, Any]] | None]:
    """Return the definitions of the tools that each row's policy could call, `[N]`."""
    given = columns.get("tools")
    if given is not None:
        return [None if tools_problem(one) else one for one in given]
    trainer = trainer_of(columns)
    if not getattr(trainer, "tools", None):
        return [None] * count
    by_environment = getattr(trainer, "_env_tools", None) or {}
    names = getattr(trainer, "_batch_environments", None) or [None] * count
    if len(names) != count:
        names = [None] * count
    shown = {name: _schemas(by_environment.get(name, trainer.tools)) for name in set(names)}
    return [shown[name] for name in names]


def _schemas(tools: Sequence[Any]) -> list[dict[str, Any]]:
    # TRL has loaded transformers, and renders the tools by the same function.
    schema_of = sys.modules["transformers.utils"].get_json_schema
    return [dict(one) if isinstance(one, Mapping) else schema_of(one) for one in tools]


def row_columns(columns: Mapping[str, Any], count: int) -> list[dict[str, Any]]:
    """Return the columns of each row, `[N]`."""
    lists = {
        key: values
        for key, values in columns.items()
        if isinstance(values, (list, tuple)) and len(values) == count
    }
    return [{key: values[i] for key, values in lists.items()} for i in range(count)]


def metadata_rows(
    columns: Mapping[str, Any], count: int, reference: str | None
) -> list[dict[str, Any]]:
    """Return the small values of each data set row, `[N]`."""
    left_out = {*_NO_ROW_VALUES, reference}
    return [
        row_metadata({key: value for key, value in row.items() if key not in left_out})
        for row in row_columns(columns, count)
    ]


def split_of(columns: Mapping[str, Any]) -> str | None:
    """Return `train` or `eval`; None if it is not known."""
    training = is_training(trainer_of(columns))
    return None if training is None else "train" if training else "eval"


def step_of(columns: Mapping[str, Any]) -> int | None:
    """Return the training step, or None if TRL did not pass it."""
    state = columns.get("trainer_state") or getattr(trainer_of(columns), "state", None)
    return None if state is None else int(state.global_step)


def key_prefix(scorer: Any, columns: Mapping[str, Any]) -> str:
    """Return the prefix of a scorer's keys: its name, numbered if an earlier function has it too."""
    functions = getattr(trainer_of(columns), "reward_funcs", None) or ()
    scorers = [getattr(one, "scorer", None) for one in functions]
    same = list(dict.fromkeys(id(s) for s in scorers if getattr(s, "name", None) == scorer.name))
    number = same.index(id(scorer)) + 1 if id(scorer) in same else 1
    return str(scorer.name) if number == 1 else f"{scorer.name}_{number}"


def log_terms(
    scores: Sequence[Score],
    columns: Mapping[str, Any],
    name: str,
    components: Sequence[str],
    *,
    by_turn: bool = False,
) -> None:
    """Log terms and components, to metrics and to the table of completions.

    The names are the same in every step and on every rank, because some releases of TRL gather one
    metric after the other. A metric is the mean of the values that exist, and `…_present` says how
    many do. Without any, a single process logs no value, and one of several ranks logs 0.0: NaN would
    spread to all of them.

    Args:
        name: prefix of the keys, before the slash.
        components: names of the judges and length terms.
        by_turn: whether a judge scores each turn: the table has these scores as JSON.
    """
    parts = {
        "judge_score": [score.judge_score for score in scores],
        "judge_term": [score.judge_term for score in scores],
        "length_term": [score.length_term for score in scores],
    } | {part: [score.components.get(part, math.nan) for score in scores] for part in components}
    filled = component_columns(scores, "", components)
    masks = {f"{part}_present": filled[f"{part}_present"] for part in components}
    log_metric, log_extra = columns.get("log_metric"), columns.get("log_extra")
    if log_metric is not None:
        for part, values in parts.items():
            known = [value for value in values if math.isfinite(value)]
            for value in known or ([0.0] if ranks() > 1 else []):
                log_metric(f"{name}/{part}", value)
        for part, flags in masks.items():
            log_metric(f"{name}/{part}", sum(flags) / len(flags))
        log_metric(f"{name}/missing", sum(not score.trainable for score in scores) / len(scores))
    if log_extra is not None:
        for part, values in (parts | masks).items():
            log_extra(f"{name}/{part}", values)
        log_extra(f"{name}/judge_status", [score.status for score in scores])
        if by_turn:
            log_extra(f"{name}/turn_scores", [score.turn_scores_text for score in scores])
