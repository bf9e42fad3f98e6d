"""Chooses what a group judge compares: the order of the responses, lists and pairs; pure.

The order depends on the responses alone, not on the batch or on the order of submission, so that the
same group gives the same requests, which are paid for once.
"""

import random
from collections.abc import Sequence
from hashlib import sha256
from itertools import accumulate, combinations, pairwise

from oyer.config.group_judge import PairChunks

Pairs = PairChunks | str
"""As `JudgeConfig.pairs`: `circular`, `all` or chunks."""


def shuffled(texts: Sequence[str], salt: str) -> list[int]:
    """Return the positions of distinct texts in an order that only the texts and the salt decide.

    Args:
        salt: another one gives another order, e.g. of another sample.
    """
    digests = [sha256(text.encode("utf-8", "surrogatepass")).hexdigest() for text in texts]
    canonical = sorted(range(len(texts)), key=digests.__getitem__)
    seed = sha256("\n".join([salt, *sorted(digests)]).encode()).digest()
    random.Random(seed).shuffle(canonical)
    return canonical


def comparisons(n: int, pairs: Pairs, *, both_orders: bool) -> list[tuple[int, int]]:
    """List the comparisons among `n` responses, each as (shown first, shown second).

    - `circular`: each with the next one, n comparisons; one if n is 2.
    - `all`: n (n - 1) / 2.
    - chunks of at most c: all within each chunk, about n (c - 1) / 2 (`get_pairs_chunked` of
      tinker-cookbook).

    Each response is shown first about as often as second. `both_orders` doubles the comparisons.
    """
    if pairs == "circular":
        found = [(i, (i + 1) % n) for i in range(n)] if n > 2 else [*pairwise(range(n))]
    else:
        spans = [(0, n)] if pairs == "all" else _chunks(n, pairs)
        # Alternating by distance balances the positions.
        found = [
            (a, b) if (b - a) % 2 else (b, a)
            for start, stop in spans
            for a, b in combinations(range(start, stop), 2)
        ]
    return [*found, *((b, a) for a, b in found)] if both_orders else found


def _chunks(n: int, pairs: Pairs) -> list[tuple[int, int]]:
    """Cut `n` responses into chunks of nearly equal size and of two at least."""
    assert isinstance(pairs, PairChunks)
    count = -(-n // pairs.chunks)
    if n // count < 2:  # only an odd number in chunks of 2: one chunk has 3
        count = max(1, n // 2)
    sizes = [n // count + (k < n % count) for k in range(count)]
    ends = [0, *accumulate(sizes)]
    return [*pairwise(ends)]


def lists(sizes: Sequence[int], limit: int | None) -> list[list[int]]:
    """Split responses into lists that fit into a request; the first response is in each list.

    Args:
        sizes: of the responses, in the order shown, in characters.
        limit: most characters of the responses of one list; None for no limit. A list has two
            responses at least, whatever their size.

    Returns:
        Positions of the responses of each list, in order.
    """
    everything = list(range(len(sizes)))
    if limit is None or sum(sizes) <= limit:
        return [everything]
    found: list[list[int]] = []
    held = limit
    for i in everything[1:]:
        if not found or (held + sizes[i] > limit and len(found[-1]) > 1):
            found.append([0])
            held = sizes[0]
        found[-1].append(i)
        held += sizes[i]
    return found or [everything]
