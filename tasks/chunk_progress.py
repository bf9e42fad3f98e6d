"""Reports how far the judging of a chunk has come."""

import contextlib
import time
from collections.abc import Sequence

from redis import RedisError

from oyer.config.reward import JudgeConfig
from oyer.protocol.batch_store import BatchStore
from oyer.protocol.rollout import Rollout

_REPORT_S = 0.5
"""Minimum time between two progress reports of a chunk, in seconds."""


class ChunkProgress:
    """Counts a chunk's judgements and reports its progress to Redis.

    Args:
        place: the batch's id and the chunk's number.
        judgements: those that are on record.
    """

    def __init__(
        self,
        batches: BatchStore,
        place: tuple[str, int],
        judges: Sequence[JudgeConfig],
        rollouts: Sequence[Rollout],
        judgements: int,
    ) -> None:
        self._batches, self._place = batches, place
        responses = [rollout.response for rollout in rollouts]
        calls = sum(judge.mean_calls(responses) for judge in judges)
        self._samples = calls / max(1, len(judges))
        # A group judge that compares pairs makes more calls than it gives verdicts.
        self._verdicts = len(rollouts) * len(judges)
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
            self._batches.report(*self._place, verdicts)
