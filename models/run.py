"""The `runs` table."""

from datetime import datetime

from sqlalchemy.orm import Mapped, mapped_column

from oyer.models.base import Base


class Run(Base):
    """A training run, known by its name."""

    __tablename__ = "runs"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    created_at: Mapped[datetime]
