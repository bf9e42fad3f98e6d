"""Inputs and result of a length method."""

from collections.abc import Sequence
from dataclasses import dataclass

from oyer.config.length_methods.method import Kind
from oyer.protocol.errors import InvalidLengthCall
from oyer.tasks.lengths.arrays import Array


@dataclass(frozen=True)
class PackedTokens:
    """The token ids of many rows, one after the other."""

    ids: Array
    """int32[T], not negative."""
    cu_seqlens: Array
    """int64[N + 1]: row i holds ids[cu_seqlens[i]:cu_seqlens[i + 1]]; begins with 0."""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """The columns of a batch of N rows; a method takes what it needs.

    All are NumPy arrays, or all are torch tensors on one device.
    """

    lengths: Array | None = None
    """int64[N], in the unit that the caller states."""
    group_ids: Array | None = None
    """int64[N], any values."""
    correct: Array | None = None
    """bool[N]."""
    quality: Array | None = None
    """float64[N], the score that a method judges by; NaN is missing. Default: base_reward."""
    base_reward: Array | None = None
    """float64[N], the reward that a total is computed from; NaN is missing."""
    truncated: Array | None = None
    """bool[N], generation hit its limit."""
    think_lengths: Array | None = None
    """int64[N], length of the thinking."""
    answer_lengths: Array | None = None
    """int64[N], length after the thinking."""
    target_lengths: Array | None = None
    """int64[N], the length that the prompt asks for."""
    history_lengths: Array | None = None
    """float64[N], shortest correct answer to the prompt so far; NaN is none."""
    reference_lengths: Array | None = None
    """float64[N], mean length of the reference's answers to the prompt."""
    reference_accuracy: Array | None = None
    """float64[N], accuracy of the reference on the prompt."""
    advantages: Array | None = None
    """float64[N], to be reshaped. Default: quality minus the group's mean."""
    total_tokens: Array | None = None
    """int64[N], sampled and other tokens."""
    turns: Array | None = None
    """int64[N], turns of the dialogue."""
    no_think: Array | None = None
    """bool[N], the row answers without thinking."""
    repetitive: Array | None = None
    """bool[N], the row repeats itself."""
    components: Array | None = None
    """float64[N, R], several rewards a row; NaN is missing."""
    token_ids: PackedTokens | None = None
    """The responses' token ids."""
    texts: Sequence[str] | None = None
    """The responses."""
    group_size: int | None = None
    """Rows that every group must have; a group of another size is refused."""


@dataclass(frozen=True)
class Term:
    """The result of a length method."""

    kind: Kind
    """Kind of the values; see `Kind`."""
    values: Array
    """float64[N], or one a token for `per_token`, in the order of the rows."""
    history: Array | None = None
    """float64[N], the new `history_lengths` of a method with state; NaN is none."""


def given(column: Array | None, name: str) -> Array:
    """Return a column that the parameters require.

    Raises:
        InvalidLengthCall: it is missing.
    """
    if column is None:
        raise InvalidLengthCall(f"these parameters need `{name}`: pass it")
    return column
