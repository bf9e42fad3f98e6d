"""The tables `batches`, `runs` and `submissions`."""

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Index, String, false
from sqlalchemy.orm import Mapped, mapped_column

from oyer.models.base import Base


class Batch(Base):
    """The rollouts of one `submit`."""

    __tablename__ = "batches"
    __table_args__ = (
        Index(None, "run_id", "step"),
        Index(None, "submitted_at"),
        Index(None, "step"),
        Index(None, "status", "submitted_at"),
        Index(None, "run_id", "submitted_at"),
        {"comment": "The rollouts of one `submit`."},
    )

    id: Mapped[str] = mapped_column(String(36), primary_key=True, comment="UUID of the batch.")
    run_id: Mapped[int] = mapped_column(ForeignKey("runs.id"), comment="The run, as `runs.id`.")
    step: Mapped[int | None] = mapped_column(
        comment="Training step; NULL if the trainer gave none."
    )
    size: Mapped[int] = mapped_column(comment="Number of rollouts.")
    plan: Mapped[dict[str, Any]] = mapped_column(
        comment="Judges, length methods and reward rules of the batch (JSON)."
    )
    status: Mapped[str] = mapped_column(
        String(20), comment="`submitted` until it ends; then `finished`, `cancelled` or `failed`."
    )
    submissions: Mapped[int] = mapped_column(comment="How often the batch was sent to the workers.")
    oyer_version: Mapped[str] = mapped_column(comment="Release of the worker that recorded it.")
    submitted_at: Mapped[datetime] = mapped_column(comment="When it was first submitted (UTC).")
    finished_at: Mapped[datetime | None] = mapped_column(comment="When it ended (UTC).")
    split: Mapped[str | None] = mapped_column(
        comment="Purpose of the rollouts, e.g. `train` or `eval`; NULL if not given."
    )
    preliminary: Mapped[bool] = mapped_column(
        server_default=false(),
        comment="Whether its rollouts were judged early, and scored again with their groups.",
    )
    ending: Mapped[str | None] = mapped_column(
        comment="Who cancelled the batch or marked it as failed, and why."
    )
    counts: Mapped[dict[str, Any] | None] = mapped_column(
        comment="Rollouts per status, once the batch has ended (JSON)."
    )
    usage: Mapped[dict[str, Any] | None] = mapped_column(
        comment="Calls, tokens and cost in US dollars, once the batch has ended (JSON)."
    )


class Run(Base):
    """A training run, identified by its name."""

    __tablename__ = "runs"
    __table_args__ = ({"comment": "Trainings and evaluations, by name."},)

    id: Mapped[int] = mapped_column(primary_key=True, comment="Number of the run.")
    name: Mapped[str] = mapped_column(unique=True, comment="Name of the run.")
    created_at: Mapped[datetime] = mapped_column(comment="When its first batch was recorded (UTC).")


class BatchSubmission(Base):
    """One submission or resubmission of a batch to the workers."""

    __tablename__ = "submissions"
    __table_args__ = ({"comment": "Submissions and resubmissions of batches to the workers."},)

    batch_id: Mapped[str] = mapped_column(
        String(36),
        ForeignKey("batches.id"),
        primary_key=True,
        comment="The batch, as `batches.id`.",
    )
    sent_at: Mapped[datetime] = mapped_column(
        primary_key=True, comment="When the trainer sent it (UTC)."
    )
    host: Mapped[str | None] = mapped_column(comment="Host and process that sent it.")
    why: Mapped[str] = mapped_column(comment="`submit`, or the reason of a resubmission.")
    seen_at: Mapped[datetime | None] = mapped_column(
        comment="When a worker first received it (UTC); NULL if none has."
    )
    worker: Mapped[str | None] = mapped_column(comment="That worker.")
