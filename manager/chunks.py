"""Cuts a batch into chunks: enough to fill every worker, few enough to be cheap; pure."""

from collections.abc import Sequence

MAX_CHUNK_ROLLOUTS = 64
"""Rollouts of one judge task at most; more would make one killed worker repeat much."""

MAX_CHUNK_BYTES = 512 * 1024
"""Text of one judge task at most, unless a single rollout is larger."""

_CHUNKS_IN_FLIGHT = 16
"""Judge tasks among which the calls in flight are spread: smaller chunks cost more messages,
larger ones leave the last worker alone with the tail (measured at 128 and 512 in flight)."""


def chunk_sizes(sizes_bytes: Sequence[int], *, in_flight: int, judges: int) -> list[int]:
    """Choose how many consecutive rollouts each judge task carries.

    Args:
        sizes_bytes: `[N]` bytes of text per rollout.
        in_flight: calls that the endpoints allow at once.
        judges: calls made for one rollout.

    Returns:
        Rollouts per chunk, in order; they add up to N.
    """
    calls = in_flight / max(1, judges)
    limit = max(4, min(MAX_CHUNK_ROLLOUTS, round(calls / _CHUNKS_IN_FLIGHT)))
    chunks: list[int] = []
    count = held_bytes = 0
    for size in sizes_bytes:
        if count and (count == limit or held_bytes + size > MAX_CHUNK_BYTES):
            chunks.append(count)
            count = held_bytes = 0
        count += 1
        held_bytes += size
    return [*chunks, count] if count else chunks
