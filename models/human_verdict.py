"""The table `human_verdicts`."""

from datetime import datetime

from sqlalchemy import CheckConstraint, ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from oyer.models.base import Base

VERDICTS = ("agree", "should_be", "unsure")


class HumanVerdict(Base):
    """A person's verdict on a judge's score. Rows are added, never changed: the latest counts."""

    __tablename__ = "human_verdicts"
    __table_args__ = (
        CheckConstraint("(verdict = 'should_be') = (score IS NOT NULL)", name="score_if_should_be"),
        Index(None, "batch_id", "rollout_index"),
        Index(None, "created_at"),
        {"comment": "Verdicts of people on judges' scores; the latest of a person counts."},
    )

    id: Mapped[str] = mapped_column(String(36), primary_key=True, comment="UUID of the verdict.")
    batch_id: Mapped[str] = mapped_column(
        String(36), ForeignKey("batches.id"), comment="The batch, as `batches.id`."
    )
    rollout_index: Mapped[int] = mapped_column(comment="Index of the rollout in its batch.")
    judge: Mapped[str] = mapped_column(String(100), comment="Name of the judge.")
    verdict: Mapped[str] = mapped_column(String(20), comment="`agree`, `should_be` or `unsure`.")
    score: Mapped[float | None] = mapped_column(
        comment="The score that the person would give, on the judge's scale; NULL unless `should_be`."
    )
    note: Mapped[str | None] = mapped_column(comment="The person's note.")
    author: Mapped[str] = mapped_column(String(200), comment="Name of the person.")
    blind: Mapped[bool] = mapped_column(
        comment="Whether the judge's score was hidden until the verdict."
    )
    created_at: Mapped[datetime] = mapped_column(comment="When it was given (UTC).")
