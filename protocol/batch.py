"""A batch without its texts: manifest, columns, and their encoding."""

import os
import socket
import time
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict, TypeAdapter

from oyer.protocol.packing import decode_json, pack

Priority = Literal["interactive", "training", "background"]
"""Whose calls begin first at an endpoint that several batches wait for."""

TRAINING_SPLITS = (None, "train")
"""Values of `split` that mark training; every other one is an evaluation or a replay."""


def default_priority(split: str | None) -> Priority:
    """Return the priority of a batch that names none, so that an evaluation does not delay training."""
    return "training" if split in TRAINING_SPLITS else "background"


@dataclass(frozen=True, kw_only=True, slots=True)
class Submission:
    """One submission of a batch to the workers."""

    at: float
    """Epoch seconds, by the trainer's clock."""
    host: str
    """Host name and process id of the sender."""
    why: str
    """`submit` at first; then the reason of the resubmission."""
    trace: str | None = None
    """Its span, as `oyer.telemetry.tracing.traceparent` returns it; None without tracing."""

    @classmethod
    def now(cls, why: str) -> "Submission":
        """Return a submission by this process at this time."""
        return cls(at=time.time(), host=f"{socket.gethostname()}:{os.getpid()}", why=why)


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """Everything about a batch but its rows; read by each of its tasks."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(defer_build=True)

    batch_id: str
    run: str
    step: int | None
    submitted_at: float
    """Epoch seconds by the clock of Redis; kept by resubmissions, because it is part of the tables'
    primary keys."""
    deadline: float
    """Epoch seconds by the clock of Redis, after which no call starts."""
    sendings: list[Submission] = field(default_factory=list)
    """All submissions of the batch so far, in order."""
    plan: dict[str, Any]
    """Judges, length methods and reward rules, from `oyer.config.reward.plan_of`."""
    chunks: list[tuple[int, int]]
    """First row and number of rows of each chunk, in order."""
    split_groups: list[str] = field(default_factory=list)
    """Groups with rows in several chunks; set only if a judge has a fallback."""
    length_follows_judges: bool = False
    """True if the length task needs the verdicts and runs after the judge tasks."""
    one_task: bool = False
    """True if one judge task does all the work of the batch, see `oyer.tasks.small_batch`."""
    token_ids: bool = False
    """True if the payloads include token ids."""
    preliminary: bool = False
    """Whether its rollouts are scored again with their groups."""
    split: str | None = None
    """Purpose of the rollouts, e.g. `eval`; None is training."""
    priority: Priority = "training"
    """Weight of the batch's calls, see `oyer.tasks.coordination.fair_queue`."""

    @property
    def size(self) -> int:
        """Number of rollouts."""
        return sum(count for _, count in self.chunks)

    @property
    def submission(self) -> int:
        """Number of submissions so far, at least 1."""
        return max(1, len(self.sendings))

    @property
    def labels(self) -> dict[str, Any]:
        """What spans say of the batch."""
        return {"batch_id": self.batch_id, "run": self.run, "step": self.step}

    @property
    def trace(self) -> str | None:
        """The span of the latest submission; None without tracing."""
        return self.sendings[-1].trace if self.sendings else None

    def note_trace(self, trace: str) -> None:
        """Set the span of the latest submission; copies share the list of submissions."""
        self.sendings[-1] = replace(self.sendings[-1], trace=trace)

    def again(self, why: str) -> "Manifest":
        """Return the manifest of the next submission."""
        return replace(self, sendings=[*self.sendings, Submission.now(why)])


@dataclass(frozen=True, kw_only=True, slots=True)
class Columns:
    """A batch's rollouts without their texts, `[N]` each."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(defer_build=True)

    group_ids: list[str | None]
    base_score: list[float | None]
    correct: list[bool | None]
    truncated: list[bool]
    response_tokens: list[int | None]
    metadata: dict[str, list[Any]] = field(default_factory=dict)
    """Metadata values that length methods read, `[N]` each, by key."""
    incomplete: list[int] = field(default_factory=list)
    """Rows whose groups lack rollouts."""

    @property
    def correctness(self) -> list[bool | None]:
        """`correct`, or whether the base score is positive; None if both are unknown."""
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
    """Unpack a manifest.

    Raises:
        MessageRefused: the bytes are of another version or not from Oyer.
    """
    return decode_json(_MANIFEST, blob, "manifest")


def encode_columns(columns: Columns) -> bytes:
    """Pack a batch's columns for transport."""
    return pack(_COLUMNS.dump_json(columns))


def decode_columns(blob: bytes) -> Columns:
    """Unpack columns.

    Raises:
        MessageRefused: the bytes are of another version or not from Oyer.
    """
    return decode_json(_COLUMNS, blob, "columns")
