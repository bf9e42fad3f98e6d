"""The `batches` table."""

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from oyer.models.base import Base


class Batch(Base):
    """What one `submit` handed over."""

    __tablename__ = "batches"
    __table_args__ = (Index(None, "run_id", "step"), Index(None, "submitted_at"))

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    run_id: Mapped[int] = mapped_column(ForeignKey("runs.id"))
    step: Mapped[int | None]
    size: Mapped[int]
    """Number of rollouts."""
    plan: Mapped[dict[str, Any]]
    """Judges, length methods and rules, as they travelled with the batch."""
    status: Mapped[str] = mapped_column(String(20))
    """`submitted` until it ends: `finished`, `cancelled`, or `failed` when its trainer gave it up."""
    submissions: Mapped[int]
    """How often the batch was handed to the workers; `submissions` has when and from where."""
    oyer_version: Mapped[str]
    submitted_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]
    split: Mapped[str | None]
    """What the rollouts are for, e.g. `train` or `eval`; NULL where nobody said."""
    ending: Mapped[str | None]
    """Who cancelled the batch or gave it up, and why."""
    counts: Mapped[dict[str, Any] | None]
    """Rollouts per status once nothing of the batch is under way; null before."""
    usage: Mapped[dict[str, Any] | None]
    """Calls, tokens and cost once nothing of the batch is under way; null before."""


class Run(Base):
    """A training run, known by its name."""

    __tablename__ = "runs"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    created_at: Mapped[datetime]


class BatchSubmission(Base):
    """One time that a batch was handed to the workers."""

    __tablename__ = "submissions"

    batch_id: Mapped[str] = mapped_column(String(36), ForeignKey("batches.id"), primary_key=True)
    sent_at: Mapped[datetime] = mapped_column(primary_key=True)
    """By the sender's clock."""
    host: Mapped[str | None]
    """Machine and process that sent it."""
    why: Mapped[str]
    """`submit` at first; then what it was sent again for."""
    seen_at: Mapped[datetime | None]
    """When a worker began on it; NULL where it reached none."""
    worker: Mapped[str | None]
    """The worker process that did."""
