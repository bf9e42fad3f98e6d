"""The frozen types that cross the broker, and their versioned encoding.

A payload is JSON, compressed with zstd. A worker refuses a version it does not know, so
that a rolling upgrade meets a clear error and never a misread field.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import TypeAdapter, ValidationError

from oyer.tasks.errors import MessageRefused

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

WIRE_VERSION = 1
"""Raised whenever an older worker could misread a payload."""

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
    try:
        return _ROLLOUTS.validate_json(unpack(blob))
    except ValidationError as error:
        raise MessageRefused(f"rollouts payload cannot be read: {error}") from error


def pack(body: bytes) -> bytes:
    """Compress a payload and stamp its version; level 1, for speed on the trainer's side."""
    return b"oyer%d\n" % WIRE_VERSION + zstd.compress(body, 1)


def unpack(blob: bytes) -> bytes:
    """Check a payload's stamp and decompress it.

    Raises:
        MessageRefused: the bytes are of another version or not ours.
    """
    stamp, _, body = blob.partition(b"\n")
    if stamp != b"oyer%d" % WIRE_VERSION:
        raise MessageRefused(
            f"payload stamped {stamp[:12]!r}; this worker reads version {WIRE_VERSION}:"
            " upgrade the older side"
        )
    try:
        return zstd.decompress(body)
    except zstd.ZstdError as error:
        raise MessageRefused(f"payload cannot be decompressed: {error}") from error
