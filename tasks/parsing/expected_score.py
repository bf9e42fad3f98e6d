"""Computes the expected score from the token probabilities (logprobs) of a judge's score.

- It is the mean of the renormalised distribution over the valid integer scores (G-Eval,
  arXiv:2303.16634; better than the most likely score in all settings of arXiv:2503.03064).
- It is None if the distribution is unreliable; the caller then keeps the score in the text.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

MIN_VALID_MASS = 0.5
"""Least total probability of the valid scores at the score's token."""

MAX_UNRESOLVED = 0.01
"""Largest share of the token `1`, which may start a `10`, that is ignored."""


def expected_score(
    tokens: Sequence[Mapping[str, Any]], scale: tuple[float, float], score: float
) -> float | None:
    """Return the mean score over the alternatives of the token that states the score.

    If a tokenizer splits `10` into `1` and `0`, the probability of `1` is divided by the
    alternatives of the next token. They are unknown if the reply does not hold that `1`; more than
    `MAX_UNRESOLVED` on `1` then gives None.

    Args:
        tokens: `choices[0].logprobs.content` of a chat completion: each with `token`, `logprob`
            and `top_logprobs`, a list of `token` and `logprob`.
        scale: lowest and highest score, whole numbers.
        score: the score parsed from the reply's text.

    Returns:
        A number on the scale, or None if the token or its distribution is unclear.
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
    """Divide a digit's probability over the numbers that begin with it; False if that is unknown."""
    if not after:
        return True
    mass, following = valid[head], _probabilities(after[0], strip=False)
    for number in longer:
        valid[number] = mass * following.get(number[1:], 0.0)
    digits = sum(p for token, p in following.items() if token[:1].isdigit())
    valid[head] = mass * max(0.0, 1.0 - digits)
    return all(len(number) == 2 for number in longer)


def _verdict_place(tokens: Sequence[Mapping[str, Any]], score: float) -> int | None:
    """Return the index of the token that starts the last number, if that number is the score."""
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
    """Return the probability of each alternative; white space around it is ignored."""
    found: dict[str, float] = {}
    for entry in token.get("top_logprobs") or ():
        text = str(entry["token"]).strip() if strip else str(entry["token"])
        logprob = float(entry["logprob"])
        if math.isnan(logprob):
            continue
        # A logprob above 0 is cut to 0, the largest that a probability can have.
        found[text] = found.get(text, 0.0) + math.exp(min(0.0, logprob))
    return found
