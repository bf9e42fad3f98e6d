"""The `rollouts` table."""

from typing import Any

from sqlalchemy import ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from oyer.models.base import Base, BatchPart


class Rollout(BatchPart, Base):
    """One sampled completion of a batch, its texts by hash."""

    __tablename__ = "rollouts"
    __table_args__ = (
        # A group id may be as long as its prompt; a B-tree of PostgreSQL refuses such a key.
        Index(None, "group_id", postgresql_using="hash"),
        Index(None, "batch_id"),
        Index(None, "prompt_hash"),
        Index(None, "response_hash"),
        Index(None, "reference_hash"),
    )

    group_id: Mapped[str | None]
    prompt_hash: Mapped[str] = mapped_column(String(64), ForeignKey("texts.hash"))
    response_hash: Mapped[str] = mapped_column(String(64), ForeignKey("texts.hash"))
    reference_hash: Mapped[str | None] = mapped_column(String(64), ForeignKey("texts.hash"))
    base_score: Mapped[float | None]
    correct: Mapped[bool | None]
    truncated: Mapped[bool]
    response_tokens: Mapped[int | None]
    details: Mapped[dict[str, Any] | None] = mapped_column("metadata")
    """The trainer's own metadata."""


class Text(Base):
    """A text of a rollout, a request or a reply, stored once however many rows name it."""

    __tablename__ = "texts"

    hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    """SHA-256 of the body's UTF-8, in hex."""
    body: Mapped[str]
    """The text; chat messages as JSON, their keys in the order given."""
