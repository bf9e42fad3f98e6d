"""The frozen types that cross the broker, and their versioned encoding.

A payload is JSON, compressed with zstd. A worker refuses a version it does not know, so
that a rolling upgrade meets a clear error and never a misread field.
"""

import os
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from oyer.tasks.errors import InvalidInput, MessageRefused

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

T = TypeVar("T")

WIRE_VERSION = 1
"""Raised whenever an older worker could misread a payload."""

MAX_PAYLOAD_BYTES = 2**28
"""Largest payload, unpacked: a batch's numbers reach it at some ten million rollouts, its texts
never, since a chunk is bounded. What unpacks to more is no payload, and is not unpacked further."""

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


def _decode(adapter: TypeAdapter[T], blob: bytes, what: str) -> T:
    try:
        return adapter.validate_json(unpack(blob))
    except ValidationError as error:
        # Without the input, which is the user's text and would end up in logs.
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise MessageRefused(
            f"{what} payload cannot be read: {where} {first['msg']}; run the same release of Oyer on"
            " the trainer and the workers"
        ) from None


def pack(body: bytes) -> bytes:
    """Compress a payload and stamp its version; level 1, for speed on the trainer's side.

    Raises:
        InvalidInput: it is larger than a worker would unpack.
    """
    if len(body) > MAX_PAYLOAD_BYTES:
        raise InvalidInput(
            f"rollouts: a part of the batch is {len(body)} bytes, more than {MAX_PAYLOAD_BYTES};"
            " submit it in several batches"
        )
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
    unpacker = zstd.ZstdDecompressor()
    try:
        unpacked = unpacker.decompress(body, max_length=MAX_PAYLOAD_BYTES)
    except zstd.ZstdError as error:
        raise MessageRefused(f"payload cannot be decompressed: {error}; submit again") from error
    if not unpacker.eof or unpacker.unused_data:
        raise MessageRefused(
            f"payload cannot be decompressed: it is cut, followed by something, or larger than"
            f" {MAX_PAYLOAD_BYTES} bytes; submit again"
        )
    return unpacked


@dataclass(frozen=True, kw_only=True, slots=True)
class Sending:
    """One time that a batch was handed to the workers."""

    at: float
    """Epoch seconds, by the sender's clock."""
    host: str
    """Machine and process that sent it."""
    why: str
    """`submit` at first; then what it was sent again for."""

    @classmethod
    def now(cls, why: str) -> "Sending":
        """Name this process and this moment."""
        return cls(at=time.time(), host=f"{socket.gethostname()}:{os.getpid()}", why=why)


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """What every task of a batch needs to know about it; everything but its rows."""

    batch_id: str
    run: str
    step: int | None
    submitted_at: float
    """Epoch seconds; the same over resubmissions, since it is part of the record's keys."""
    deadline: float
    """Epoch seconds after which no call is begun."""
    sendings: list[Sending] = field(default_factory=list)
    """Every time that the batch was handed to the workers, in order; this time is the last."""
    plan: dict[str, Any]
    """Judges, length methods and reward rules, as `oyer.tasks.config.plan_of` gives them."""
    chunks: list[tuple[int, int]]
    """First row and number of rows of each chunk, in order."""
    split_groups: list[str] = field(default_factory=list)
    """Groups with rows in several chunks; looked for where a judge has a fall-back."""

    length_follows_judges: bool = False
    """Length terms are computed once all verdicts are there, rather than beside the judges."""
    token_ids: bool = False
    """Token ids were sent along, for the length methods."""

    @property
    def size(self) -> int:
        """Number of rollouts."""
        return sum(count for _, count in self.chunks)

    @property
    def submission(self) -> int:
        """1 at first; counts resubmissions."""
        return max(1, len(self.sendings))

    def again(self, why: str) -> "Manifest":
        """Return the same batch as its next submission."""
        return replace(self, sendings=[*self.sendings, Sending.now(why)])


@dataclass(frozen=True, kw_only=True, slots=True)
class Columns:
    """The numbers of a batch's rollouts, `[N]` each, without their texts."""

    group_ids: list[str | None]
    base_score: list[float | None]
    correct: list[bool | None]
    truncated: list[bool]
    response_tokens: list[int | None]
    metadata: dict[str, list[Any]] = field(default_factory=dict)
    """Values that length methods take from the rollouts' metadata, `[N]` each, by key."""

    @property
    def correctness(self) -> list[bool | None]:
        """Correctness as stated, else whether the base score is positive; None where unknown."""
        return [
            (None if base is None else base > 0) if correct is None else correct
            for correct, base in zip(self.correct, self.base_score, strict=True)
        ]


_MANIFEST = TypeAdapter(Manifest)
_COLUMNS = TypeAdapter(Columns)


def encode_manifest(manifest: Manifest) -> bytes:
    """Pack a manifest for transport."""
    return pack(_MANIFEST.dump_json(manifest))


def decode_manifest(blob: bytes) -> Manifest:
    """Unpack what `encode_manifest` packed.

    Raises:
        MessageRefused: the bytes are of another version or not ours.
    """
    return _decode(_MANIFEST, blob, "manifest")


def encode_columns(columns: Columns) -> bytes:
    """Pack a batch's columns for transport."""
    return pack(_COLUMNS.dump_json(columns))


def decode_columns(blob: bytes) -> Columns:
    """Unpack what `encode_columns` packed.

    Raises:
        MessageRefused: the bytes are of another version or not ours.
    """
    return _decode(_COLUMNS, blob, "columns")
