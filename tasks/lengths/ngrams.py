"""Exact counts of distinct n-grams, and where they repeat, on packed token ids.

- An n-gram that fits in 62 bits is its own key, and sorted keys are counted.
- A longer one is hashed. In rows with equal hashes, each pair of equal neighbours is compared
  token by token.
- Rows with a hash collision are counted again with dense ranks, which cannot collide, so no
  result depends on the hash.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from oyer.config.length_methods.repetition import MAX_WINDOWS
from oyer.protocol.errors import InvalidLengthCall
from oyer.tasks.lengths.arrays import Array, bound, device, is_torch_array, namespace, select
from oyer.tasks.lengths.inputs import PackedTokens

Join = Callable[[Array, Array], Array]
"""Codes of two neighbouring parts, int64[B, W] each, to codes of the whole; equal parts must
give equal codes."""

KEY_BITS = 62
"""Bits of an n-gram that is its own key; `FILLER` is larger."""

FILLER = 2**63 - 1
"""Sorts after every key; marks columns without an n-gram."""

CPU_WINDOWS = 2**20
"""N-grams sorted at once on a CPU: 8 MiB of keys stay near the cache."""

PADDING_SHARE = 0.8
"""Rows share a chunk while the shortest has this share of the longest one's n-grams."""


def count_distinct(
    tokens: PackedTokens, n: int, *, max_windows: int = MAX_WINDOWS, join: Join | None = None
) -> tuple[Array, Array]:
    """Distinct and all n-grams of every row: two int64[N].

    Args:
        n: tokens in an n-gram.
        max_windows: n-grams sorted at once; a chunk that runs out of memory is halved.
        join: how hashes of parts make the hash of an n-gram.

    Raises:
        InvalidLengthCall: a token id is negative.
        MemoryError: a single row does not fit; on a GPU, `torch.OutOfMemoryError`.
    """
    widths = _widths(tokens, n)
    distinct = namespace(widths).zeros_like(widths)

    def count(rows: Array) -> None:
        distinct[rows] = _Chunk.of(tokens, rows, n, join or _hash_join).count()

    _each_chunk(widths, _limit(tokens, max_windows), count)
    return distinct, widths


def mark_repeats(
    tokens: PackedTokens, n: int, *, max_windows: int = MAX_WINDOWS, join: Join | None = None
) -> Array:
    """Which n-grams were seen before in their row: bool[T], at each one's first token.

    Arguments and errors as for `count_distinct`.
    """
    xp = namespace(tokens.ids)
    repeated = xp.zeros_like(tokens.ids, dtype=xp.bool)

    def mark(rows: Array) -> None:
        chunk = _Chunk.of(tokens, rows, n, join or _hash_join)
        where = (tokens.cu_seqlens[rows, None] + chunk.columns)[chunk.valid]
        repeated[where] = ~chunk.first_seen()[chunk.valid]

    _each_chunk(_widths(tokens, n), _limit(tokens, max_windows), mark)
    return repeated


def _widths(tokens: PackedTokens, n: int) -> Array:
    if len(tokens.ids) and int(namespace(tokens.ids).min(tokens.ids)) < 0:
        raise InvalidLengthCall("token_ids: an id is negative; leave padding out")
    return bound(tokens.cu_seqlens[1:] - tokens.cu_seqlens[:-1] - n + 1, min=0)


def _limit(tokens: PackedTokens, max_windows: int) -> int:
    return min(max_windows, CPU_WINDOWS) if _on_cpu(tokens.ids) else max_windows


def _on_cpu(values: Array) -> bool:
    return not is_torch_array(values) or values.device.type == "cpu"


def _each_chunk(widths: Array, limit: int, work: Callable[[Array], None]) -> None:
    """Pass rows of similar size to `work`; halve a chunk that runs out of memory."""
    pending = list(_chunks(widths, limit))
    while pending:
        rows = pending.pop()
        try:
            work(rows)
        except _out_of_memory(widths):
            if len(rows) == 1:
                raise
            half = len(rows) // 2
            pending += [rows[:half], rows[half:]]


def _out_of_memory(like: Array) -> type[Exception]:
    """Return the out-of-memory error of the device of `like`."""
    if not is_torch_array(like):
        return MemoryError
    import torch

    return torch.OutOfMemoryError


def _chunks(widths: Array, limit: int) -> Iterator[Array]:
    """Row numbers with at least one n-gram, by falling size, a limited padded area at a time."""
    xp = namespace(widths)
    order = xp.argsort(-widths, stable=True)
    sizes = xp.take(widths, order)
    order = order[sizes > 0]
    ordered = sizes[sizes > 0].tolist()
    start = 0
    while start < len(ordered):
        most = max(1, limit // ordered[start])
        stop = start + 1
        while stop < min(start + most, len(ordered)) and (
            ordered[stop] >= PADDING_SHARE * ordered[start]
        ):
            stop += 1
        yield order[start:stop]
        start = stop


@dataclass(frozen=True)
class _Chunk:
    """Some rows, padded to the longest."""

    parts: Array
    """int64[B, T - k + 1]: the k-gram that begins at each token, as its own key."""
    k: int
    """Tokens in a part."""
    n: int
    """Tokens in an n-gram."""
    widths: Array
    """int64[B], n-grams of each row."""
    join: Join
    """Makes hashes."""

    @classmethod
    def of(cls, tokens: PackedTokens, rows: Array, n: int, join: Join) -> "_Chunk":
        xp = namespace(tokens.ids)
        starts, ends = tokens.cu_seqlens[rows], tokens.cu_seqlens[rows + 1]
        longest = int(xp.max(ends - starts))
        index = starts[:, None] + xp.arange(longest, device=device(rows))
        ids = xp.astype(tokens.ids[bound(index, max=len(tokens.ids) - 1)], xp.int64)
        bits = max(1, int(xp.max(ids)).bit_length())
        k = min(n, max(1, KEY_BITS // bits))
        parts = xp.asarray(ids[:, : longest - k + 1], copy=True)
        for j in range(1, k):
            parts <<= bits
            parts |= ids[:, j : longest - k + 1 + j]
        return cls(parts, k, n, ends - starts - n + 1, join)

    @cached_property
    def columns(self) -> Array:
        """int64[W], numbers of the n-grams."""
        width = self.parts.shape[1] - (self.n - self.k)
        return namespace(self.parts).arange(width, device=device(self.parts))

    @cached_property
    def valid(self) -> Array:
        """bool[B, W], where a row has an n-gram."""
        return self.columns < self.widths[:, None]

    def count(self) -> Array:
        """Distinct n-grams of each row: int64[B]."""
        xp = namespace(self.parts)
        keys = select(self.valid, self._codes(self.join), FILLER)
        ordered = _sorted_rows(keys)
        change = ordered[:, 1:] != ordered[:, :-1]
        distinct = xp.count_nonzero(change & self.valid[:, 1:], axis=1) + 1
        if self.k < self.n:
            doubtful = xp.nonzero(distinct < self.widths)[0]
            if len(doubtful):
                first = self._only(doubtful).first_seen()
                distinct[doubtful] = xp.count_nonzero(first, axis=1)
        return distinct

    def _only(self, rows: Array) -> "_Chunk":
        return _Chunk(self.parts[rows], self.k, self.n, self.widths[rows], self.join)

    def _codes(self, join: Join) -> Array:
        """Codes int64[B, W] of the n-grams, from those of overlapping or adjoining parts."""
        codes, size = self.parts, self.k
        while size < self.n:
            shift = min(size, self.n - size)
            codes = join(codes[:, :-shift], codes[:, shift:])
            size += shift
        return codes

    def first_seen(self) -> Array:
        """bool[B, W]: the n-gram is the first of its kind in the row."""
        codes = self._codes(self.join)
        scrambled = self.join(codes, codes) if self.k == self.n else codes
        first, collided = self._first_by_code(scrambled, certain=False)
        if len(collided):
            exact = self._only(collided)
            ranks = _dense_rank(exact._codes(_rank_join))
            first[collided], _ = exact._first_by_code(ranks, certain=True)
        return first

    def _first_by_code(self, codes: Array, *, certain: bool) -> tuple[Array, Array]:
        """First of each code, and rows in which one code stands for different n-grams.

        Codes share an int64 with positions, so that sorting keys alone also orders positions.
        """
        position_bits = codes.shape[1].bit_length()
        xp = namespace(codes)
        kept = codes & ((1 << (63 - position_bits)) - 1)
        keys = (kept << position_bits) | self.columns
        ordered = _sorted_rows(select(self.valid, keys, FILLER))
        position = ordered & ((1 << position_bits) - 1)
        ordered >>= position_bits
        same = (ordered[:, 1:] == ordered[:, :-1]) & self.valid[:, 1:]
        first = xp.asarray(self.valid, copy=True)
        row, place = xp.nonzero(same)
        earlier, later = position[row, place], position[row, place + 1]
        first[row, later] = False
        if certain:
            return first, row[:0]
        collided = xp.zeros_like(self.widths, dtype=xp.bool)
        collided[row[~self._equal(row, earlier, later)]] = True
        return first, xp.nonzero(collided)[0]

    def _equal(self, row: Array, a: Array, b: Array) -> Array:
        """Whether the n-grams at columns a and b of a row are the same, part by part."""
        xp = namespace(row)
        equal = xp.ones_like(row, dtype=xp.bool)
        offsets = [*range(0, self.n - self.k, self.k), self.n - self.k]
        for offset in offsets:
            equal &= self.parts[row, a + offset] == self.parts[row, b + offset]
        return equal


def _sorted_rows(keys: Array) -> Array:
    """Sort every row of int64[B, W], in place on a CPU: NumPy's vectorised sort is faster."""
    if not _on_cpu(keys):
        return namespace(keys).sort(keys, axis=1)
    np.asarray(keys).sort(axis=1)
    return keys


_MIX = (-0x61C8864680B583EB, -0x40A7B892E31B1A47)
"""splitmix64's increment and first multiplier, as signed numbers."""


def _hash_join(left: Array, right: Array) -> Array:
    """Hash of two parts, order-sensitive, modulo 2^64."""
    mixed = left * _MIX[0] + right
    mixed ^= mixed >> 32
    mixed *= _MIX[1]
    mixed ^= mixed >> 29
    return mixed


def _rank_join(left: Array, right: Array) -> Array:
    """A code that only equal pairs of parts share: both ranks, side by side."""
    return _dense_rank(left) * left.shape[1] + _dense_rank(right)


def _dense_rank(codes: Array) -> Array:
    """Rank of each code among the distinct codes of its row, from 0: int64[B, W]."""
    xp = namespace(codes)
    position = xp.argsort(codes, axis=1, stable=True)
    row = xp.arange(len(codes), device=device(codes))[:, None]
    ordered = codes[row, position]
    rank = xp.empty_like(codes)
    change = xp.astype(ordered[:, 1:] != ordered[:, :-1], xp.int64)
    rank[row, position] = xp.cumulative_sum(change, axis=1, include_initial=True)
    return rank
