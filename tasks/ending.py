"""The end task: a batch that was cancelled or given up ends on record, whatever became of its chord."""

from datetime import UTC, datetime

from oyer.models import history, record
from oyer.tasks import process
from oyer.tasks.patience import patiently


def end_batch(batch_id: str) -> None:
    """End a batch that is on record; `combine` ends one that gets there later."""
    ending = patiently(lambda: process.exchange().ending(batch_id))
    # It was resumed meanwhile.
    if ending is None:
        return
    status, why = ending
    now = datetime.now(UTC)

    def write() -> None:
        with process.engine().begin() as conn:
            record.finish_batch(
                conn,
                batch_id,
                status=status,
                finished_at=now,
                counts=history.counts_of(conn, batch_id),
                usage=history.usage_of(conn, batch_id),
                ending=why,
            )

    patiently(write)
