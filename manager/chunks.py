"""Cuts a batch into chunks: enough to fill every worker, few enough to be cheap; pure."""

from collections.abc import Sequence

MAX_CHUNK_ROLLOUTS = 64
"""Rollouts of one judge task at most; more would make one killed worker repeat much."""

MAX_CHUNK_BYTES = 512 * 1024
"""Text of one judge task at most, unless a single rollout is larger."""

_MIN_CHUNK_ROLLOUTS = 4

_CHUNKS_IN_FLIGHT = 16
"""Judge tasks among which the calls in flight are spread, so that every process has its part."""

_CHUNKS_PER_BATCH = 64
"""Judge tasks of a large batch: each costs a message, a transaction and some round trips, and
with fewer the last worker is left alone with the tail."""


def chunk_sizes(sizes_bytes: Sequence[int], *, in_flight: int, judges: int) -> list[int]:
    """Choose how many consecutive rollouts each judge task carries.

    Args:
        sizes_bytes: `[N]` bytes of text per rollout.
        in_flight: calls that the endpoints allow at once.
        judges: calls made for one rollout.

    Returns:
        Rollouts per chunk, in order; they add up to N.
    """
    wanted = max(
        in_flight / max(1, judges) / _CHUNKS_IN_FLIGHT, len(sizes_bytes) / _CHUNKS_PER_BATCH
    )
    limit = max(_MIN_CHUNK_ROLLOUTS, min(MAX_CHUNK_ROLLOUTS, round(wanted)))
    chunks: list[int] = []
    count = held_bytes = 0
    for size in sizes_bytes:
        if count and (count == limit or held_bytes + size > MAX_CHUNK_BYTES):
            chunks.append(count)
            count = held_bytes = 0
        count += 1
        held_bytes += size
    return [*chunks, count] if count else chunks
