"""Penalties on repeated n-grams, and detectors of loops."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from oyer.config.length_methods.repetition import Unit
from oyer.protocol.errors import InvalidLengthCall
from oyer.tasks.lengths import ngrams
from oyer.tasks.lengths.arrays import Array, bound, double, namespace, select
from oyer.tasks.lengths.inputs import PackedTokens


def repetition(
    token_ids: PackedTokens | None = None,
    texts: Sequence[str] | None = None,
    *,
    ngram_size: int,
    max_penalty: float,
    unit: Unit | None,
    dead_zone: float,
    max_windows: int,
) -> Array:
    """`max_penalty * max(0, 1 - distinct / all - dead_zone)` of n-grams: float64[N].

    0 for fewer than `ngram_size` units, arXiv:2502.03373. Without a unit, token ids are used if
    given, else words.
    """
    tokens = _tokens(token_ids, texts, unit)
    distinct, windows = ngrams.count_distinct(tokens, ngram_size, max_windows=max_windows)
    repeated = double(windows - distinct) / bound(windows, min=1)
    return max_penalty * bound(repeated - dead_zone, min=0)


def _tokens(
    token_ids: PackedTokens | None, texts: Sequence[str] | None, unit: Unit | None
) -> PackedTokens:
    if unit in (None, "token_ids") and token_ids is not None:
        return token_ids
    if unit == "token_ids" or texts is None:
        raise InvalidLengthCall(
            "repetition: pass `token_ids`, or `texts` with unit: words or chars"
        )
    return pack(_characters(texts) if unit == "chars" else _words(texts))


def _characters(texts: Sequence[str]) -> list[Sequence[int]]:
    return [[ord(character) for character in text] for text in texts]


def _words(texts: Sequence[str]) -> list[Sequence[int]]:
    numbers: dict[str, int] = {}
    return [
        [numbers.setdefault(word, len(numbers)) for word in text.lower().split()] for text in texts
    ]


def pack(rows: Sequence[Sequence[int]], device: Any = None) -> PackedTokens:
    """Pack rows of token ids from 0 to 2^31 - 1.

    Args:
        device: a torch device that the ids go to; NumPy arrays when left out.
    """
    counts = np.array([0, *(len(row) for row in rows)], dtype=np.int64).cumsum()
    ids = np.fromiter((token for row in rows for token in row), dtype=np.int32)
    if device is None:
        return PackedTokens(ids, counts)
    import torch

    return PackedTokens(torch.from_numpy(ids).to(device), torch.from_numpy(counts).to(device))


def repetition_dense(
    token_ids: PackedTokens, *, ngram_size: int, penalty: float, only_start: bool, max_windows: int
) -> Array:
    """`penalty` on every token of an n-gram that was seen before: float64[T], packed.

    It is set and does not add up; `only_start` takes the first n-gram of each unbroken run.
    """
    repeated = ngrams.mark_repeats(token_ids, ngram_size, max_windows=max_windows)
    if only_start:
        repeated = repeated & ~_after(repeated)
    xp = namespace(repeated)
    seen = xp.cumulative_sum(xp.astype(repeated, xp.int64), include_initial=True)
    # A token is covered if an n-gram that begins at it or up to n - 1 tokens before is repeated.
    before = xp.concat([xp.zeros_like(seen[: ngram_size - 1]), seen])[: len(repeated)]
    return penalty * double(seen[1:] > before)


def _after(flags: Array) -> Array:
    """Return each token's predecessor's flag."""
    xp = namespace(flags)
    return xp.concat([xp.zeros_like(flags[:1]), flags[:-1]])


def repetition_onset(token_ids: PackedTokens, *, ngram_size: int) -> Array:
    """Return where LASER-DE's detector sees a row start to repeat itself: int64[N].

    It is the row's length if no n-gram recurs, else the start of its last `2 n` tokens, but not
    before token `2 n - 1`. This rule fits the known outputs of the published code; LASER-DE uses
    only `onset < length`.
    """
    distinct, windows = ngrams.count_distinct(token_ids, ngram_size)
    lengths = token_ids.cu_seqlens[1:] - token_ids.cu_seqlens[:-1]
    late = bound(lengths - 2 * ngram_size, min=2 * ngram_size - 1)
    return select(distinct < windows, namespace(late).minimum(late, lengths), lengths)


def consecutive_ngram_loop(texts: Sequence[str], *, max_ngram: int) -> Array:
    """Return the longest run of one repeated n-gram, and its n: int64[N, 2] (GRPO-LEAD).

    For every n up to `max_ngram`, words are split into n-grams from the start, so a loop is found
    only if it begins at a multiple of n. Zeros without a repetition.
    """
    loops = [_longest_loop(text.split(), max_ngram) for text in texts]
    return np.array(loops, dtype=np.int64).reshape(-1, 2)


def _longest_loop(words: list[str], max_ngram: int) -> tuple[int, int]:
    best = (0, 0)
    for n in range(1, min(max_ngram, len(words) // 2) + 1):
        run = 1
        for start in range(n, len(words) - n + 1, n):
            run = run + 1 if words[start : start + n] == words[start - n : start] else 1
            if run > max(best[0], 1):
                best = (run, n)
    return best
