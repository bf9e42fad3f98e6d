"""What a record holds: rows by table, texts, and batches."""

from sqlalchemy import Engine, func, select

from oyer.models import Base, Batch, Text
from oyer.models.engine import reading


def rows(engine: Engine) -> dict[str, int]:
    """Return the number of rows of each table."""
    with reading(engine) as conn:
        return {
            name: conn.scalar(select(func.count()).select_from(table)) or 0
            for name, table in Base.metadata.tables.items()
        }


def texts(engine: Engine) -> set[str]:
    """Return the texts on record."""
    with reading(engine) as conn:
        return set(conn.scalars(select(Text.body)))


def batches(engine: Engine) -> list[str]:
    """Return the ids of the batches, sorted."""
    with reading(engine) as conn:
        return sorted(conn.scalars(select(Batch.id)))
