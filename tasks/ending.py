"""The end task: a batch that was cancelled or given up ends on record, whatever became of its chord."""

from datetime import UTC, datetime

from oyer.models import history, record
from oyer.tasks import process
from oyer.tasks.errors import MessageRefused
from oyer.tasks.patience import patiently

_ENDS = ("cancelled", "failed")


def end_batch(batch_id: str, status: str, why: str) -> None:
    """End a batch that is on record; `combine` ends one that gets there later.

    Raises:
        MessageRefused: that is no way to end before the time.
    """
    if status not in _ENDS:
        raise MessageRefused(f"batch {batch_id}: cannot be ended as {status!r}")

    def write() -> None:
        with process.engine().begin() as conn:
            record.finish_batch(
                conn,
                batch_id,
                status=status,
                finished_at=datetime.now(UTC),
                counts=history.counts_of(conn, batch_id),
                usage=history.usage_of(conn, batch_id),
                ending=why,
            )

    patiently(write)
