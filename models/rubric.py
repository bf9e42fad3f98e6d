"""The `rubrics` table."""

from sqlalchemy import String
from sqlalchemy.orm import Mapped, mapped_column

from oyer.models.base import Base


class Rubric(Base):
    """A rubric's text, as its hash in a judgement names it."""

    __tablename__ = "rubrics"

    hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    name: Mapped[str]
    text: Mapped[str]
