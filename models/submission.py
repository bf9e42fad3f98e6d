"""The `submissions` table."""

from datetime import datetime

from sqlalchemy import ForeignKey, String
from sqlalchemy.orm import Mapped, mapped_column

from oyer.models.base import Base


class Submission(Base):
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
