"""The declarative base: constraint names, and column types that normalise values.

- Times are timezone-aware and in UTC. SQLite stores fixed-width text that sorts by time and that its
  date functions accept: `2026-01-31T12:00:00.000000Z`.
- Non-finite numbers become NULL. NUL characters and lone surrogates, which PostgreSQL cannot store,
  become U+FFFD.
"""

import json
import math
from datetime import UTC, datetime
from numbers import Real
from typing import Any, ClassVar

from sqlalchemy import (
    JSON,
    DateTime,
    Dialect,
    Double,
    ForeignKey,
    Index,
    MetaData,
    String,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator, TypeEngine


def clean_text(text: str) -> str:
    """Replace NUL and lone surrogates, which PostgreSQL cannot store, by U+FFFD."""
    text = text.replace("\0", "\ufffd")
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def clean_json(value: Any) -> Any:
    """Clean every string of a JSON value, and replace non-finite numbers by null."""
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, dict):
        return {clean_text(str(key)): clean_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [clean_json(item) for item in value]
    if isinstance(value, Real) and not isinstance(value, int):
        return float(value) if math.isfinite(value) else None
    return value


def dump_json(value: Any, *, sort_keys: bool = True) -> str:
    """Encode a JSON value in a canonical form that both databases can store.

    Args:
        sort_keys: False keeps the order of the keys.
    """
    return json.dumps(
        clean_json(value),
        ensure_ascii=False,
        allow_nan=False,
        sort_keys=sort_keys,
        separators=(",", ":"),
    )


class Timestamp(TypeDecorator[datetime]):
    """A timezone-aware time in UTC with microseconds."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        plain = Text() if dialect.name == "sqlite" else DateTime(timezone=True)
        return dialect.type_descriptor(plain)

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value!r} has no time zone: use datetime.now(UTC)")
        utc = value.astimezone(UTC)
        if dialect.name != "sqlite":
            return utc
        return utc.isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        if isinstance(value, str):
            return datetime.fromisoformat(value)
        return None if value is None else value.astimezone(UTC)


class Finite(TypeDecorator[float]):
    """A double; NaN and infinity become NULL."""

    impl = Double
    cache_ok = True

    def process_bind_param(self, value: float | None, dialect: Dialect) -> float | None:
        return float(value) if value is not None and math.isfinite(value) else None


class CleanText(TypeDecorator[str]):
    """Text that both databases can store."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else clean_text(value)


JSON_VALUE = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
"""A JSON value: text in SQLite, `JSONB` in PostgreSQL."""


class Base(DeclarativeBase):
    """Base of all tables; the migrations are compared with `Base.metadata`."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        datetime: Timestamp,
        float: Finite,
        str: CleanText,
        dict[str, Any]: JSON_VALUE,
    }


class BatchPart:
    """First key columns of the tables whose rows belong to rollouts.

    The primary key starts with the batch's first submission time, so that PostgreSQL can partition
    the table by it. The time is the same in every resubmission, so that keys stay unique.
    """

    submitted_at: Mapped[datetime] = mapped_column(
        primary_key=True,
        sort_order=-3,
        comment="When the batch was first submitted (UTC); the same in all rows of a batch.",
    )
    batch_id: Mapped[str] = mapped_column(
        String(36),
        ForeignKey("batches.id"),
        primary_key=True,
        sort_order=-2,
        comment="The batch, as `batches.id`.",
    )
    rollout_index: Mapped[int] = mapped_column(
        primary_key=True, sort_order=-1, comment="Index of the rollout in its batch, from 0."
    )


def set_index(column: str) -> Index:
    """Return a partial index on the non-NULL rows of a column that is mostly NULL."""
    filled = text(f"{column} IS NOT NULL")
    return Index(None, column, sqlite_where=filled, postgresql_where=filled)
