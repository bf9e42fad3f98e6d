"""Finds and changes batches in the record, or on the broker if no worker has started on them."""

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeVar

from oyer.cli.support.output import notes
from oyer.protocol.errors import BackendUnavailable, InvalidConfig, InvalidInput

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from oyer.config.reward import RewardConfig
    from oyer.manager.backend.connection import Backend, Broker
    from oyer.models.rows import StoredBatch, SubmissionRow
    from oyer.protocol.batch import Manifest

T = TypeVar("T")

QUEUED = "queued"
"""Status of a batch that no worker has started, and that is therefore not in the record yet."""

_ID_CHARS = 36
"""Length of an id, a UUID."""

_SHOWN = 3
"""Number of ids that an error lists."""

_MAX_SEARCHED = 1000
"""Number of queued batches that are searched for the beginning of an id."""

UNFINISHED = (QUEUED, "submitted")
"""The statuses of unfinished batches."""


class BatchLedger:
    """Reads and changes batches under one configuration."""

    def __init__(self, settings: "RewardConfig") -> None:
        self._settings = settings

        self.stall_s = settings.stall_s

    @property
    def broker_key(self) -> "Broker":
        """The configured broker, or that of an `oyer up` in this folder.

        Raises:
            InvalidConfig: there is neither.
        """
        from oyer.local.state import running_broker
        from oyer.manager.backend.connection import Broker

        broker = self._settings.broker
        return Broker.of(broker.url or running_broker(), broker)

    @property
    def broker(self) -> "Backend":
        """The connection to the broker, as trainers use it."""
        from oyer.manager.backend.connection import backend

        return backend(*self.broker_key)

    def batch(self, batch_id: str) -> "StoredBatch":
        """Find a batch in the record or on the broker.

        Raises:
            InvalidInput: neither has it.
        """
        from oyer.models import queries

        state = self.read(lambda conn: queries.batch(conn, batch_id))
        if state is not None:
            return state
        try:
            manifest = self.broker.manifest(batch_id)
            elsewhere = "nor queued on the broker"
        except (BackendUnavailable, InvalidInput) as error:
            manifest, elsewhere = None, f"and the broker cannot be asked: {error}"
        if manifest is None:
            raise InvalidInput(
                f"batch {batch_id}: is not on record in store.url, {elsewhere};"
                " `oyer batches list` has those that are"
            )
        return _queued(manifest)

    def whole_id(self, prefix: str) -> str:
        """Complete the beginning of a batch id; returned unchanged if no id begins with it.

        Raises:
            InvalidInput: several ids begin with it; the message lists some.
        """
        from oyer.models import queries

        if not prefix or len(prefix) >= _ID_CHARS:
            return prefix
        found = self.read(lambda conn: queries.ids_starting(conn, prefix, _SHOWN))
        # Only batches that are not in the record are searched on the broker.
        if not found:
            found = [state["id"] for state in self.queued(_MAX_SEARCHED)]
            found = [batch_id for batch_id in found if batch_id.startswith(prefix)]
        if len(found) > 1:
            raise InvalidInput(
                f"batch {prefix}: several ids begin so ({', '.join(found[:_SHOWN])}, …); give more of it"
            )
        return found[0] if found else prefix

    def submissions(self, batch_id: str) -> "list[SubmissionRow]":
        """Return the submissions of a batch, in order."""
        from oyer.models import queries

        recorded = self.read(lambda conn: queries.submissions_of(conn, batch_id))
        if recorded:
            return recorded
        try:
            manifest = self.broker.manifest(batch_id)
        except (BackendUnavailable, InvalidInput):
            # Without its broker, the batch is shown from the record alone.
            manifest = None
        return [] if manifest is None else _sent(manifest)

    def queued(self, limit: int) -> "list[StoredBatch]":
        """Return the latest batches that no worker has started."""
        from oyer.models import queries

        try:
            manifests = self.broker.waiting(limit)
        except (BackendUnavailable, InvalidInput) as error:
            # The recorded batches can still be listed.
            notes.print(f"queued batches are not listed: {error}", markup=False, soft_wrap=True)
            return []
        ids = [manifest.batch_id for manifest in manifests]
        missing = self.read(lambda conn: queries.missing_from_record(conn, ids))
        return [_queued(manifest) for manifest in manifests if manifest.batch_id in missing]

    def cancel(self, batch_id: str) -> None:
        """Cancel a batch on the broker and in the record; no worker needs to run.

        If no broker is configured and none runs here, the batch's embedded broker has ended with its
        trainer; then only the record is updated.
        """
        from datetime import UTC, datetime

        from oyer.models import writes
        from oyer.protocol.batch import Submission

        why = "oyer batches cancel"
        try:
            why = self.broker.cancel(batch_id, why)
        except InvalidConfig:
            why = f"{why}, after its broker had ended ({Submission.now(why).host})"
        with self._writing() as conn:
            writes.finish_batch(
                conn,
                batch_id,
                status="cancelled",
                finished_at=datetime.now(UTC),
                ending=why,
            )

    def reopen(self, batch_id: str) -> None:
        """Mark a failed batch as submitted again."""
        from oyer.models import writes

        with self._writing() as conn:
            writes.reopen_batch(conn, batch_id)

    def read(self, query: "Callable[[Connection], T]") -> T:
        """Run a query on the record."""
        from oyer.cli.support.database import existing
        from oyer.models.engine import reading

        with existing(self._settings.store.url) as engine, reading(engine) as conn:
            return query(conn)

    @contextlib.contextmanager
    def _writing(self) -> "Iterator[Connection]":
        from oyer.cli.support.database import existing

        with existing(self._settings.store.url) as engine, engine.begin() as conn:
            yield conn


def _queued(manifest: "Manifest") -> "StoredBatch":
    from datetime import UTC, datetime

    return {
        "id": manifest.batch_id,
        "run": manifest.run,
        "step": manifest.step,
        "size": manifest.size,
        "plan": manifest.plan,
        "status": QUEUED,
        "submissions": manifest.submission,
        "oyer_version": "",
        "submitted_at": datetime.fromtimestamp(manifest.submitted_at, UTC),
        "finished_at": None,
        "ending": None,
        "split": manifest.split,
        "preliminary": manifest.preliminary,
        "counts": {},
        "usage": None,
    }


def _sent(manifest: "Manifest") -> "list[SubmissionRow]":
    from datetime import UTC, datetime

    return [
        {
            "batch_id": manifest.batch_id,
            "sent_at": datetime.fromtimestamp(sending.at, UTC),
            "host": sending.host,
            "why": sending.why,
            "seen_at": None,
            "worker": None,
        }
        for sending in manifest.sendings
    ]
