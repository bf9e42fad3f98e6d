"""The `texts` table."""

from sqlalchemy import String
from sqlalchemy.orm import Mapped, mapped_column

from oyer.models.base import Base


class Text(Base):
    """A text of a rollout, a request or a reply, stored once however many rows name it."""

    __tablename__ = "texts"

    hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    """SHA-256 of the body's UTF-8, in hex."""
    body: Mapped[str]
    """The text; chat messages as JSON, their keys in the order given."""
