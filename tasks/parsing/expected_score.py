"""Expected score from the probabilities that a judge gave to every score it could have written.

- Mean of the distribution over the valid integer scores, renormalised (G-Eval, arXiv:2303.16634;
  better than the most likely score in all settings of arXiv:2503.03064).
- None wherever the distribution cannot be trusted: the reply's own score then stands.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

MIN_VALID_MASS = 0.5
"""Least probability that the listed valid scores must hold together at the verdict's place."""

MAX_UNRESOLVED = 0.01
"""Largest share of a `1` that may have been the start of a `10`."""


def expected_score(
    tokens: Sequence[Mapping[str, Any]], scale: tuple[float, float], score: float
) -> float | None:
    """Mean score over the alternatives at the place where the reply states its score.

    Where a tokenizer splits `10` into `1` and `0`, the probability of `1` is shared out by the
    alternatives listed after it; if the reply did not take that path, they are unknown, and more
    than `MAX_UNRESOLVED` on `1` gives none.

    Args:
        tokens: `choices[0].logprobs.content` of a chat completion: each with `token`, `logprob`
            and `top_logprobs`, a list of `token` and `logprob`.
        scale: lowest and highest score, whole numbers.
        score: what was read from the reply's text.

    Returns:
        A number on the scale, or none if the place or its distribution is not clear.
    """
    place = _verdict_place(tokens, score)
    if place is None or not all(bound.is_integer() for bound in map(float, scale)):
        return None
    valid = {str(n): 0.0 for n in range(int(scale[0]), int(scale[1]) + 1)}
    listed = _probabilities(tokens[place])
    for token, probability in listed.items():
        if token in valid:
            valid[token] += probability
    total = sum(valid.values())
    if total < MIN_VALID_MASS:
        return None
    for head in [number for number in valid if len(number) == 1]:
        longer = [number for number in valid if len(number) > 1 and number[0] == head]
        if not longer or any(number in listed for number in longer):
            continue
        if tokens[place]["token"].strip() != head:
            if valid[head] / total > MAX_UNRESOLVED:
                return None
        elif not _share_out(valid, head, longer, tokens[place + 1 : place + 2]):
            return None
    total = sum(valid.values())
    return sum(int(number) * probability for number, probability in valid.items()) / total


def _share_out(
    valid: dict[str, float], head: str, longer: list[str], after: Sequence[Mapping[str, Any]]
) -> bool:
    """Split a head's probability over the numbers that begin with it; false where unknown."""
    if not after:
        return True
    mass, following = valid[head], _probabilities(after[0], strip=False)
    for number in longer:
        valid[number] = mass * following.get(number[1:], 0.0)
    digits = sum(p for token, p in following.items() if token[:1].isdigit())
    valid[head] = mass * max(0.0, 1.0 - digits)
    return all(len(number) == 2 for number in longer)


def _verdict_place(tokens: Sequence[Mapping[str, Any]], score: float) -> int | None:
    """Index of the token that starts the reply's last number, if that number is the score."""
    text = "".join(str(token["token"]) for token in tokens)
    numbers = list(re.finditer(r"(?<![0-9./])[0-9]+(?:\.[0-9]+)?", text))
    if not numbers or not float(score).is_integer() or numbers[-1].group() != str(int(score)):
        return None
    start, at = numbers[-1].start(), 0
    for index, token in enumerate(tokens):
        end = at + len(str(token["token"]))
        if at <= start < end:
            written = str(token["token"]).strip()
            return index if numbers[-1].group().startswith(written) else None
        at = end
    return None


def _probabilities(token: Mapping[str, Any], *, strip: bool = True) -> dict[str, float]:
    """Probability per alternative; spellings that differ in white space only are one."""
    found: dict[str, float] = {}
    for entry in token.get("top_logprobs") or ():
        text = str(entry["token"]).strip() if strip else str(entry["token"])
        # No probability is above 1: what an endpoint says beyond that is cut, NaN is nothing.
        found[text] = found.get(text, 0.0) + math.exp(min(0.0, float(entry["logprob"])))
    return found
