"""The table `criteria`."""

from sqlalchemy import Index, String
from sqlalchemy.orm import Mapped, mapped_column

from oyer.models.base import Base, BatchPart


class Criterion(BatchPart, Base):
    """A verdict on one criterion; the key columns before `position` identify its judgement."""

    __tablename__ = "criteria"
    __table_args__ = (
        Index(None, "batch_id"),
        {"comment": "One row per criterion of a judgement: the verdict, or none if it is missing."},
    )

    judge: Mapped[str] = mapped_column(String(100), primary_key=True, comment="Name of the judge.")
    sample: Mapped[int] = mapped_column(primary_key=True, comment="As in `judgements`.")
    position: Mapped[int] = mapped_column(
        primary_key=True, comment="Place of the criterion in its request, from 0."
    )
    name: Mapped[str] = mapped_column(comment="Name of the criterion.")
    verdict: Mapped[str | None] = mapped_column(
        comment="`true`, `false` or the choice; NULL if the judge gave none."
    )
    value: Mapped[float | None] = mapped_column(
        comment="The verdict as a number from 0 to 1: met is 1, also of a pitfall; NULL if missing."
    )
    reason: Mapped[str | None] = mapped_column(comment="The judge's reason.")
    weight: Mapped[float] = mapped_column(comment="Weight; negative for a pitfall.")
    required: Mapped[bool] = mapped_column(
        comment="Whether the criterion limits the score to 0 unless it is met."
    )
    span: Mapped[str | None] = mapped_column(
        comment="The part of the reply that holds the verdict."
    )
