"""The `rewards` table."""

from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from oyer.models.base import Base, BatchPart


class Reward(BatchPart, Base):
    """What the trainer was given for one rollout."""

    __tablename__ = "rewards"
    __table_args__ = (
        CheckConstraint("NOT trainable OR reward IS NOT NULL", name="trainable_has_reward"),
        Index(None, "batch_id"),
    )

    reward: Mapped[float | None]
    """NULL where there is none."""
    unshaped_reward: Mapped[float | None]
    judge_score: Mapped[float | None]
    status: Mapped[str] = mapped_column(String(20))
    trainable: Mapped[bool]
    """Whether the reward may be trained on: the batch's mask."""
    terms: Mapped[dict[str, Any]]
    """Each named term's value; null where it has none."""
    created_at: Mapped[datetime]
    group_size: Mapped[int | None]
    """Rollouts of its group in its batch; NULL where it has no group."""
