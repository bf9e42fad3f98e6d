"""The `rewards` table."""

from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from oyer.models.base import Base, BatchPart


class Reward(BatchPart, Base):
    """The reward that the trainer got for one rollout."""

    __tablename__ = "rewards"
    __table_args__ = (
        CheckConstraint("NOT trainable OR reward IS NOT NULL", name="trainable_has_reward"),
        Index(None, "batch_id"),
        {"comment": "The reward that the trainer got for each rollout."},
    )

    reward: Mapped[float | None] = mapped_column(
        comment="The reward that the trainer got; NULL if there is none."
    )
    unshaped_reward: Mapped[float | None] = mapped_column(comment="The reward before length terms.")
    judge_score: Mapped[float | None] = mapped_column(
        comment="Combined score of all judges; NULL if there is none."
    )
    status: Mapped[str] = mapped_column(
        String(20), comment="Status of the rollout; see docs/troubleshooting.md."
    )
    trainable: Mapped[bool] = mapped_column(comment="Whether the reward may be used for training.")
    terms: Mapped[dict[str, Any]] = mapped_column(
        comment="Value of each named term, and each judge's score as `score:<judge>`; null if"
        " missing (JSON)."
    )
    created_at: Mapped[datetime] = mapped_column(comment="When it was computed (UTC).")
    group_size: Mapped[int | None] = mapped_column(
        comment="Rollouts of its group in its batch; NULL without a group."
    )
    length_status: Mapped[str | None] = mapped_column(
        String(20),
        comment="`incomplete` if its length terms compare it without some rollouts of its group.",
    )
