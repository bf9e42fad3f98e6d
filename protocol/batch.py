"""What the tasks of one batch know about it: manifest and columns, and their encoding."""

import os
import socket
import sys
import time
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import TypeAdapter

if sys.version_info >= (3, 14):
    pass
else:
    pass

from oyer.protocol.packing import _decode, pack


@dataclass(frozen=True, kw_only=True, slots=True)
class Submission:
    """One time that a batch was handed to the workers."""

    at: float
    """Epoch seconds, by the sender's clock."""
    host: str
    """Machine and process that sent it."""
    why: str
    """`submit` at first; then what it was sent again for."""

    @classmethod
    def now(cls, why: str) -> "Submission":
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
    sendings: list[Submission] = field(default_factory=list)
    """Every time that the batch was handed to the workers, in order; this time is the last."""
    plan: dict[str, Any]
    """Judges, length methods and reward rules, as `oyer.config.reward.plan_of` gives them."""
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
        return replace(self, sendings=[*self.sendings, Submission.now(why)])


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
