"""The context of one worker process: configuration, Redis, database, judge services.

`oyer.tasks.celery` builds one when the process starts and passes it to every task.
"""

import contextlib
import os
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from redis import Redis, RedisError

from oyer.config.plan import Plan, read_plan
from oyer.config.reward import RewardConfig
from oyer.protocol import names
from oyer.protocol.batch import Manifest
from oyer.protocol.batch_store import BatchStore
from oyer.protocol.errors import InvalidConfig
from oyer.protocol.measuring.measurements import Measurements
from oyer.protocol.redis_client import RedisClock, connect
from oyer.tasks.coordination.admission import Admission
from oyer.tasks.worker.logging import log_values
from oyer.tasks.worker.pools import DEFAULT_CONCURRENCY
from oyer.tasks.worker.shutdown import Shutdown
from oyer.tasks.worker.storage_retry import retry_storage

if TYPE_CHECKING:
    import torch
    from sqlalchemy import Connection, Engine

    from oyer.tasks.worker.services import JudgeServices

T = TypeVar("T")

_REDIS_TIMEOUT_S = 5.0
"""Maximum wait for a reply of Redis, in seconds."""

_MAX_BATCHES = 64
"""Batches of which a process keeps the plan and the ending."""

_ENDING_AGE_S = 0.2
"""Maximum age of a process's copy of a batch's ending, in seconds."""


class WorkerContext:
    """Everything that a worker process shares between its tasks.

    Connections open on first use: after the pool has forked, and only where a task needs them.
    """

    def __init__(self, config: RewardConfig) -> None:
        self.config = config
        self.shutdown = Shutdown(config.grace_s)
        self.slots = DEFAULT_CONCURRENCY[names.JUDGE_QUEUE]
        """Judge tasks that this process runs at once."""
        self._plans: dict[str, tuple[dict[str, Any], Plan]] = {}
        self._endings: dict[str, tuple[float, bool]] = {}
        self._record_waits: dict[object, float] = {}

    @cached_property
    def name(self) -> str:
        """Unique name of this process in rows, claims and heartbeats."""
        return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}"

    @property
    def broker_url(self) -> str:
        """URL of the broker.

        Raises:
            InvalidConfig: it is not set.
        """
        url = self.config.broker.url
        if url is None:
            raise InvalidConfig(
                "broker.url: is not set; give the workers the broker of the trainers, e.g."
                " OYER_BROKER__URL=redis://localhost:6379/0, or run `oyer up`"
            )
        return url

    @cached_property
    def redis(self) -> Redis:
        """A pool of Redis connections, shared by all greenlets or threads."""
        return connect(self.broker_url, timeout_s=_REDIS_TIMEOUT_S)

    @cached_property
    def clock(self) -> RedisClock:
        """The clock by which batches have their time of submission and their deadline."""
        return RedisClock(self.redis)

    @cached_property
    def measurements(self) -> Measurements:
        """The counters and histograms of this process."""
        return Measurements(self.redis)

    @cached_property
    def batches(self) -> BatchStore:
        """The payloads of batches in flight."""
        return BatchStore(self.redis, expires_s=self.config.broker.result_expires_s)

    @cached_property
    def engine(self) -> "Engine":
        """The database engine."""
        from oyer.models.engine import open_engine

        return open_engine(self.config.store.url)

    @cached_property
    def judging(self) -> "JudgeServices":
        """The services of judge calls."""
        from oyer.tasks.worker.services import JudgeServices

        return JudgeServices(self)

    @cached_property
    def admission(self) -> Admission:
        """The chunks in work here, for a judge worker."""
        return Admission(self.slots, lambda endpoints: self.judging.lookahead(endpoints))

    @cached_property
    def device(self) -> "torch.device | None":
        """The device of length terms; None is the CPU with NumPy."""
        from oyer.tasks.worker.device import choose_device

        return choose_device()

    def manifest(self, batch_id: str) -> tuple[Manifest, Plan]:
        """Read a batch's manifest and its plan, which is validated once per batch and process.

        Raises:
            BatchFailed: the payloads are gone.
            MessageRefused: the plan is of another version.
        """
        manifest = retry_storage(self.batches.manifest, batch_id)
        known = self._plans.get(batch_id)
        if known is None or known[0] != manifest.plan:
            known = manifest.plan, read_plan(manifest)
            _keep_latest(self._plans, batch_id, known)
        log_values(batch_id=batch_id, run=manifest.run)
        return manifest, known[1]

    def must_stop(self, batch_id: str) -> bool:
        """Whether no further call may start: the batch ended early, or this worker stops.

        If Redis is unreachable, assume that the batch's state has not changed.
        """
        read_at, ended = self._endings.get(batch_id, (0.0, False))
        now = time.monotonic()
        if now - read_at > _ENDING_AGE_S:
            # Stored before the read, so that concurrent greenlets do not read as well.
            _keep_latest(self._endings, batch_id, (now, ended))
            with contextlib.suppress(RedisError):
                ended = self.batches.ending(batch_id) is not None
                _keep_latest(self._endings, batch_id, (now, ended))
        return ended or self.shutdown.requested

    def read(self, query: "Callable[[Connection], T]") -> T:
        """Run a query on the database; see `retry_storage`."""
        from oyer.models.engine import reading

        def work() -> T:
            with reading(self.engine) as conn:
                return query(conn)

        with self._waiting_for_record():
            return retry_storage(work)

    def write(self, statements: "Callable[[Connection], T]") -> T:
        """Run statements in one transaction; see `retry_storage`."""

        def work() -> T:
            with self.engine.begin() as conn:
                return statements(conn)

        with self._waiting_for_record():
            return retry_storage(work)

    @property
    def waits_for_record_since(self) -> float | None:
        """When the oldest read or write of the record began that has not ended, in epoch seconds."""
        return min(self._record_waits.values(), default=None)

    @contextlib.contextmanager
    def _waiting_for_record(self) -> Iterator[None]:
        wait = object()
        self._record_waits[wait] = time.time()
        try:
            yield
        finally:
            del self._record_waits[wait]

    def close(self) -> None:
        """Return permits and claims, and close the database; a SQLite file leaves no `-wal` file behind."""
        if "judging" in self.__dict__:
            self.judging.close()
        if "measurements" in self.__dict__:
            self.measurements.close()
        if "engine" in self.__dict__:
            self.engine.dispose()


def _keep_latest(kept: dict[str, T], batch_id: str, value: T) -> None:
    kept.pop(batch_id, None)
    kept[batch_id] = value
    while len(kept) > _MAX_BATCHES:
        del kept[next(iter(kept))]
