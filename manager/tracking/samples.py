"""A table of some rollouts of a batch, for trackers; pure."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from oyer.protocol.batch_result import sampled_rows
from oyer.protocol.content import content_text
from oyer.protocol.rollout import Message
from oyer.protocol.status import SETTLED

if TYPE_CHECKING:
    from oyer.manager.batch import RewardBatch

MAX_TEXT_CHARS = 4000
"""Most characters of a prompt or response in the table; the middle of a longer one is left out."""


class Table(NamedTuple):
    """Columns and rows of texts and numbers; a missing number is None."""

    columns: list[str]
    rows: list[list[Any]]


def sample_table(batch: "RewardBatch", size: int, step: int | None = None) -> Table:
    """Return a table of `size` rollouts, chosen at random by the batch's id.

    Prompt and response are empty if the batch does not hold its rollouts (`RewardBatch.rollouts`).
    """
    columns = ["step", "batch", "row", "prompt", "response", "reward", "status"]
    names = list(batch.components)
    rows = []
    for i in sampled_rows(batch.id, len(batch))[:size]:
        rollout = batch.rollouts[i] if batch.rollouts else None
        texts = ["", ""] if rollout is None else [_text(rollout.prompt), _text(rollout.response)]
        numbers = [_number(batch.components[name][i]) for name in names]
        status = batch.statuses[i]
        fixed = [step, batch.id, i, *texts, _number(batch.rewards[i]), status]
        rows.append([*fixed, *numbers, _reason(batch, i)])
    return Table([*columns, *names, "reason"], rows)


def _reason(batch: "RewardBatch", row: int) -> str:
    """Return what the judges replied, or why there is no score."""
    status = batch.statuses[row]
    reply = batch.reasons.get(row, "")
    if status in SETTLED:
        return reply
    return "\n".join(text for text in (batch.first_errors.get(status, ""), reply) if text)


def _text(content: str | Sequence[Message]) -> str:
    if isinstance(content, str):
        return _cut(content)
    return _cut("\n".join(_message_text(message) for message in content))


def _message_text(message: Mapping[str, Any]) -> str:
    calls = message.get("tool_calls")
    text = content_text(message.get("content") or "")
    called = f" {json.dumps(calls, ensure_ascii=False, default=str)}" if calls else ""
    return f"{message.get('role')}: {text}{called}"


def _cut(text: str) -> str:
    if len(text) <= MAX_TEXT_CHARS:
        return text
    half = MAX_TEXT_CHARS // 2
    return f"{text[:half]}\n[… {len(text) - 2 * half} characters cut …]\n{text[-half:]}"


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
