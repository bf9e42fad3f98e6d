"""Ends batches on record that `combine` has not: those cancelled, given up, or left by their backend."""

from collections.abc import Mapping
from datetime import UTC, datetime

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from oyer.models import queries, writes
from oyer.models.engine import open_engine
from oyer.tasks.worker import context
from oyer.tasks.worker.patience import patiently


def end_left(endings: Mapping[str, tuple[str, str]], store_url: str) -> str:
    """End batches whose broker and workers have stopped.

    Args:
        endings: status and reason by batch id.

    Returns:
        What there is to say: how many batches were ended, or why none could be.
    """
    try:
        engine = open_engine(store_url)
        try:
            with engine.begin() as conn:
                ended = sum(_ended(conn, one, *how) for one, how in endings.items())
        finally:
            engine.dispose()
    except SQLAlchemyError as error:
        return f"batches that were under way stay `submitted` on record: {error}"
    return f"{ended} batches that were under way ended on record"


def _ended(conn: Connection, batch_id: str, status: str, why: str) -> bool:
    return writes.finish_batch(
        conn,
        batch_id,
        status=status,
        finished_at=datetime.now(UTC),
        counts=queries.counts_of(conn, batch_id),
        usage=queries.usage_of(conn, batch_id),
        ending=why,
    )


def end_batch(batch_id: str) -> None:
    """End a batch that is on record; `combine` ends one that gets there later.

    Calls of the batch may be under way, so that `combine` counts what became of it.
    """
    ending = patiently(lambda: context.exchange().ending(batch_id))
    # It was resumed meanwhile.
    if ending is None:
        return
    status, why = ending
    now = datetime.now(UTC)

    def write() -> None:
        with context.engine().begin() as conn:
            writes.finish_batch(
                conn,
                batch_id,
                status=status,
                finished_at=now,
                ending=why,
            )

    patiently(write)
