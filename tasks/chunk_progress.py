"""Reports the progress of a chunk to Redis."""

import contextlib
import time

from redis import RedisError

from oyer.config.plan import Plan
from oyer.protocol.batch import Manifest
from oyer.tasks.worker.context import WorkerContext

_REPORT_S = 0.5
"""Minimum time between two progress reports of a chunk, in seconds."""


class ChunkProgress:
    """Counts a chunk's judgements and reports its progress to Redis."""

    def __init__(
        self, context: WorkerContext, manifest: Manifest, chunk: int, plan: Plan, judgements: int
    ) -> None:
        self._batches = context.batches
        self._where = (manifest.batch_id, chunk)
        calls = sum(judge.samples * judge.criteria_calls for judge in plan.judges)
        self._samples = calls / max(1, len(plan.judges))
        # A group judge that compares pairs makes more calls than it gives verdicts.
        self._verdicts = manifest.chunks[chunk][1] * len(plan.judges)
        self._judgements = judgements
        self._reported_at = 0.0 if judgements else time.monotonic()
        self.add(0)

    def add(self, judgements: int = 1) -> None:
        """Count judgements; report at most every `_REPORT_S`."""
        self._judgements += judgements
        now = time.monotonic()
        if now - self._reported_at > _REPORT_S:
            self._reported_at = now
            done = int(self._judgements / self._samples) if self._samples else 0
            self.report(done)

    def report(self, verdicts: int) -> None:
        """Write the number of verdicts, at most the chunk's; skip it if Redis is down."""
        verdicts = min(verdicts, self._verdicts)
        with contextlib.suppress(RedisError):
            self._batches.report(*self._where, verdicts)
