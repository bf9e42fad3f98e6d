"""Cuts a batch into chunks: enough to keep every worker busy, few enough to be cheap; pure."""

import json
from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import itemgetter

from oyer.protocol.errors import InvalidRollout
from oyer.protocol.rollout import Rollout

MAX_CHUNK_ROLLOUTS = 64
"""Maximum rollouts of one judge task, because a killed worker repeats its whole task."""

MAX_CHUNK_BYTES = 512 * 1024
"""Maximum bytes of text of one judge task, unless a single rollout is larger."""

MAX_WHOLE_ROLLOUTS, MAX_WHOLE_BYTES = 4096, 64 * 2**20
"""Most rollouts and bytes of groups that a group judge needs in one judge task."""

MAX_GROUP_ROLLOUTS, MAX_GROUP_BYTES = 8 * MAX_CHUNK_ROLLOUTS, 32 * MAX_CHUNK_BYTES
"""Largest group that a fall-back can have in one judge task: 512 rollouts, 16 MiB."""

_MIN_CHUNK_ROLLOUTS = 4

_CHUNKS_IN_FLIGHT = 16
"""Judge tasks that share the calls in flight, so that every worker process has some."""

_CHUNKS_PER_BATCH = 32
"""Judge tasks of a large batch. Each costs a message, a transaction and round trips, 10 % of a worker's
CPU with 64 of them; with fewer, one worker judges the end of the batch alone."""


def chunk_sizes(
    sizes_bytes: Sequence[int],
    *,
    in_flight: int,
    calls: int,
    group_ids: Sequence[str | int | None] | None = None,
    whole: bool = False,
) -> list[int]:
    """Choose how many consecutive rollouts each judge task carries.

    Args:
        sizes_bytes: `[N]` bytes of text per rollout.
        group_ids: `[N]`; consecutive rollouts of a group stay in one task if they fit into it.
            None ignores groups.
        whole: keep groups in one task whatever their size and order; groups whose rollouts alternate
            share one task.
        in_flight: concurrent calls that the endpoints allow.
        calls: calls for one rollout, over all judges and samples.

    Returns:
        Rollouts per chunk, in order; they add up to N.

    Raises:
        InvalidRollout: the rollouts that `whole` keeps together are too many for one task.
    """
    wanted = max(
        in_flight / max(1, calls) / _CHUNKS_IN_FLIGHT, len(sizes_bytes) / _CHUNKS_PER_BATCH
    )
    limit = max(_MIN_CHUNK_ROLLOUTS, min(MAX_CHUNK_ROLLOUTS, round(wanted)))
    chunks: list[int] = []
    count = held_bytes = 0
    units = _whole_units if whole and group_ids else _units
    for unit in units(sizes_bytes, group_ids):
        size = sum(unit)
        if count and (count + len(unit) > limit or held_bytes + size > MAX_CHUNK_BYTES):
            chunks.append(count)
            count = held_bytes = 0
        count += len(unit)
        held_bytes += size
    return [*chunks, count] if count else chunks


def _units(
    sizes_bytes: Sequence[int], group_ids: Sequence[str | int | None] | None
) -> Iterator[list[int]]:
    """Yield the sizes of each group that fits into one task, and of every other rollout alone."""
    rows = zip(group_ids or range(len(sizes_bytes)), sizes_bytes, strict=True)
    for group_id, members in groupby(rows, key=itemgetter(0)):
        unit = [size for _, size in members]
        if group_id is None or len(unit) > MAX_GROUP_ROLLOUTS or sum(unit) > MAX_GROUP_BYTES:
            yield from ([size] for size in unit)
        else:
            yield unit


def _whole_units(
    sizes_bytes: Sequence[int], group_ids: Sequence[str | int | None] | None
) -> Iterator[list[int]]:
    """Yield the sizes of the rows from the first to the last rollout of a group, and of those between."""
    ids = group_ids or [None] * len(sizes_bytes)
    last = {group_id: row for row, group_id in enumerate(ids)}
    start = end = 0
    for row, group_id in enumerate(ids):
        end = max(end, row if group_id is None else last[group_id])
        if row < end:
            continue
        unit = list(sizes_bytes[start : row + 1])
        if len(unit) > MAX_WHOLE_ROLLOUTS or sum(unit) > MAX_WHOLE_BYTES:
            raise InvalidRollout(
                f"rollouts[{start}:{row + 1}].group_id: a group judge needs these {len(unit)}"
                f" rollouts ({sum(unit)} bytes) in one task, and {MAX_WHOLE_ROLLOUTS} rollouts and"
                f" {MAX_WHOLE_BYTES} bytes are the most; sort the rollouts by group"
            )
        yield unit
        start = row + 1


def split_groups(group_ids: Sequence[str | None], chunks: Sequence[tuple[int, int]]) -> list[str]:
    """Return the groups with rollouts in several chunks.

    Args:
        group_ids: `[N]`.
        chunks: first row and number of rows of each chunk.
    """
    first_chunk: dict[str, int] = {}
    split = {}
    for k, (start, count) in enumerate(chunks):
        for group_id in group_ids[start : start + count]:
            if group_id is not None and first_chunk.setdefault(group_id, k) != k:
                split[group_id] = k
    return list(split)


def bytes_of(rollout: Rollout) -> int:
    """Count the UTF-8 bytes of a rollout's texts and metadata.

    Raises:
        UnicodeEncodeError: a text holds a lone surrogate.
        TypeError, ValueError, RecursionError: messages or metadata are not JSON.
    """
    values = (
        rollout.prompt,
        rollout.response,
        rollout.reference,
        rollout.metadata,
        rollout.tools,
    )
    return sum(map(json_bytes, values))


def json_bytes(value: object) -> int:
    """Count the UTF-8 bytes of a text, or of a JSON value; 0 for an empty one.

    Raises:
        UnicodeEncodeError: a text holds a lone surrogate.
        TypeError, ValueError, RecursionError: it is not JSON.
    """
    if not value:
        return 0
    text = (
        value if isinstance(value, str) else json.dumps(value, allow_nan=False, ensure_ascii=False)
    )
    # Encoding copies the text.
    return len(text) if text.isascii() else len(text.encode())
