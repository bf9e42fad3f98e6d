"""The `attempts` table."""

from datetime import datetime

from sqlalchemy import Index, String
from sqlalchemy.orm import Mapped, mapped_column

from oyer.models.base import Base, BatchPart


class Attempt(BatchPart, Base):
    """One HTTP request made for a judgement, failed ones too.

    The judgement is known by the key's first five columns. It may be replaced by a later one;
    the attempts stay, since each may have been charged.
    """

    __tablename__ = "attempts"
    __table_args__ = (Index(None, "batch_id"),)

    judge: Mapped[str] = mapped_column(String(100), primary_key=True)
    sample: Mapped[int] = mapped_column(primary_key=True)
    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    number: Mapped[int]
    """1 for the first request of its judgement."""
    started_at: Mapped[datetime]
    url_index: Mapped[int | None]
    """Which of the endpoint's base URLs was asked."""
    http_status: Mapped[int | None]
    error_class: Mapped[str | None]
    latency_ms: Mapped[float | None]
    prompt_tokens: Mapped[int | None]
    completion_tokens: Mapped[int | None]
    cost_usd: Mapped[float | None]
    retry_wait_s: Mapped[float | None]
    """Wait before the next request, in seconds; NULL when none followed."""
