"""A rollout as the trainer hands it over, and its encoding."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import TypeAdapter

if sys.version_info >= (3, 14):
    pass
else:
    pass

from oyer.protocol.packing import _decode, pack

Message = dict[str, Any]
"""One chat message: `{"role": …, "content": …}`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rollout:
    """One sampled completion, as the trainer hands it over.

    Checked by `submit`, not on construction, so that an error can name the row.
    """

    prompt: str | list[Message]
    """Text, or chat messages."""
    response: str
    """The policy's completion."""
    group_id: str | int | None = None
    """The prompt's uid; rollouts with the same id form a group."""
    base_score: float | None = None
    """The verifier's score; left out, 1 or 0 from `correct`, or no base score at all."""
    response_tokens: int | None = None
    """Length of the response in the policy's tokens; needed unless a tokenizer is configured."""
    token_ids: Sequence[int] | None = None
    """The response's token ids, for the methods that look at repetition."""
    correct: bool | None = None
    """Whether the verifier found the answer right."""
    truncated: bool = False
    """Whether generation hit the length limit."""
    reference: str | None = None
    """The reference answer, shown to the judge."""
    metadata: dict[str, Any] = field(default_factory=dict)
    """Kept with the rollout on record; JSON values."""


_ROLLOUTS = TypeAdapter(list[Rollout])


def encode_rollouts(rollouts: list[Rollout]) -> bytes:
    """Pack rollouts for transport."""
    return pack(_ROLLOUTS.dump_json(rollouts))


def decode_rollouts(blob: bytes) -> list[Rollout]:
    """Unpack what `encode_rollouts` packed.

    Raises:
        MessageRefused: the bytes are of another version or not ours.
    """
    return _decode(_ROLLOUTS, blob, "rollouts")
