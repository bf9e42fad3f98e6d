"""Token ids of many responses as flat arrays, and their encoding."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oyer.protocol.errors import MessageRefused
from oyer.protocol.packing import pack, unpack

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class TokenIds:
    """The token ids of N rows, concatenated."""

    ids: NDArray[np.int32]
    """`[T]`, not negative."""
    offsets: Rows
    """`[N + 1]`: row i is `ids[offsets[i]:offsets[i + 1]]`; starts with 0."""

    @property
    def lengths(self) -> Rows:
        """Number of tokens of each row, `[N]`."""
        return np.diff(self.offsets)

    @classmethod
    def of(cls, rows: Sequence[NDArray[np.int32]]) -> "TokenIds":
        """Concatenate rows."""
        offsets = np.cumsum([0, *(len(row) for row in rows)], dtype=np.int64)
        return cls(np.concatenate([np.zeros(0, np.int32), *rows]), offsets)

    @classmethod
    def of_all(cls, rows: Sequence[Any]) -> "TokenIds | None":
        """Concatenate the token ids of responses; None if any response has none.

        Raises:
            ValueError: some are not token ids.
        """
        if any(row is None for row in rows):
            return None
        return cls.of([checked(row) for row in rows])

    def pick(self, rows: Rows) -> "TokenIds":
        """Return some rows, in the given order."""
        return TokenIds.of([self.ids[self.offsets[i] : self.offsets[i + 1]] for i in rows])

    def first(self, marker: Sequence[int]) -> Rows:
        """Find the first position of a sequence of ids in each row: `[N]`, -1 if absent."""
        last = len(self.ids) - len(marker) + 1
        found = np.ones(max(0, last), dtype=bool)
        for k, token in enumerate(marker):
            found &= self.ids[k : k + len(found)] == token
        places = np.flatnonzero(found)
        rows = np.searchsorted(self.offsets, places, side="right") - 1
        inside = places + len(marker) <= self.offsets[rows + 1]
        rows, firsts = np.unique(rows[inside], return_index=True)
        first = np.full(len(self.offsets) - 1, -1, dtype=np.int64)
        first[rows] = places[inside][firsts] - self.offsets[rows]
        return first


def checked(ids: Any) -> NDArray[np.int32]:
    """Turn one response's token ids into an array.

    Raises:
        ValueError: they are not a flat sequence of integers from 0 to 2^31 - 1.
    """
    array = np.asarray(ids)
    if array.size == 0:
        return np.zeros(0, np.int32)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise ValueError(f"holds {array.dtype} of shape {array.shape}; give a flat list of ids")
    if array.min() < 0 or array.max() > np.iinfo(np.int32).max:
        raise ValueError(f"holds ids from {array.min()} to {array.max()}; ids are 0 to 2^31 - 1")
    return array.astype(np.int32)


def encode(rows: Sequence[NDArray[np.int32]]) -> bytes:
    """Pack rows for transport: counts, then ids, as int32 split into four byte planes.

    The planes of the higher bytes are nearly constant, so zstd is faster and compresses better.
    """
    counts = np.array([len(row) for row in rows], dtype="<i4")
    words = np.concatenate([np.array([len(rows)], "<i4"), counts, *rows]).astype("<i4")
    return pack(words.view(np.uint8).reshape(-1, 4).T.tobytes())


def decode(blobs: Sequence[bytes]) -> TokenIds:
    """Unpack the rows of consecutive payloads, in order.

    Raises:
        MessageRefused: the bytes are of another version or not from Oyer.
    """
    rows: list[NDArray[np.int32]] = []
    for blob in blobs:
        planes = np.frombuffer(unpack(blob), dtype=np.uint8)
        if len(planes) % 4 or not len(planes):
            raise MessageRefused("token ids cannot be read: bytes are missing; submit again")
        words = planes.reshape(4, -1).T.copy().view("<i4").ravel().astype(np.int32)
        count = int(words[0])
        lengths = words[1 : 1 + count] if 0 <= count < len(words) else None
        if lengths is None or (lengths < 0).any() or 1 + count + lengths.sum() != len(words):
            raise MessageRefused("token ids cannot be read: their counts differ; submit again")
        rows += np.split(words[1 + count :], np.cumsum(lengths)[:-1]) if count else []
    return TokenIds.of(rows)
