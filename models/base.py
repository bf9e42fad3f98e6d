"""The declarative base: constraint names, and column types that keep bad values out.

- A time is aware and UTC. SQLite keeps it as text of fixed width that sorts by time and that
  its date functions read: `2026-01-31T12:00:00.000000Z`.
- A number that is not finite is NULL. Text loses what PostgreSQL cannot store: NUL characters
  and lone surrogates become U+FFFD.
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
    """Replace what PostgreSQL text cannot hold (NUL, lone surrogates) by U+FFFD."""
    text = text.replace("\0", "\ufffd")
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def clean_json(value: Any) -> Any:
    """Clean every string of a JSON value, and make null of every number that is not finite."""
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
    """Encode a JSON value that both databases can store, in one canonical form.

    Args:
        sort_keys: False keeps the order of the keys, where a reader of the text may see it.
    """
    return json.dumps(
        clean_json(value),
        ensure_ascii=False,
        allow_nan=False,
        sort_keys=sort_keys,
        separators=(",", ":"),
    )


class Timestamp(TypeDecorator[datetime]):
    """An aware moment in UTC, to the microsecond."""

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
    """A double that is never NaN and never infinite: those become NULL."""

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
"""A JSON value: text in SQLite, binary JSON that can be indexed in PostgreSQL."""


class Base(DeclarativeBase):
    """Every table's base; `Base.metadata` is what the migrations are compared with."""

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
    """What a table that grows with the rollouts starts with.

    The batch's submission time opens the primary key, so that PostgreSQL can partition the
    table by it and still hold one row per key: the time is the batch's own, the same whenever
    a part of the batch is run again.
    """

    submitted_at: Mapped[datetime] = mapped_column(primary_key=True, sort_order=-3)
    batch_id: Mapped[str] = mapped_column(
        String(36), ForeignKey("batches.id"), primary_key=True, sort_order=-2
    )
    rollout_index: Mapped[int] = mapped_column(primary_key=True, sort_order=-1)


def set_index(column: str) -> Index:
    """Index the rows in which a column is set, for a column that is NULL in most rows."""
    filled = text(f"{column} IS NOT NULL")
    return Index(None, column, sqlite_where=filled, postgresql_where=filled)
