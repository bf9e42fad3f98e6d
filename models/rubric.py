"""The `rubrics` table."""

from sqlalchemy import String
from sqlalchemy.orm import Mapped, mapped_column

from oyer.models.base import Base


class Rubric(Base):
    """A rubric's text, referenced by hash from judgements."""

    __tablename__ = "rubrics"
    __table_args__ = ({"comment": "Rubrics that judges used."},)

    hash: Mapped[str] = mapped_column(
        String(64), primary_key=True, comment="SHA-256 of the rubric, in hex."
    )
    name: Mapped[str] = mapped_column(comment="Name in the rubric's front matter, or the judge's.")
    text: Mapped[str] = mapped_column(comment="The rubric.")
