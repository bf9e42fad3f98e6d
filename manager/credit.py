"""Spreads the scores of a rollout's turns to its tokens; pure."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from oyer.protocol.errors import InvalidInput


def turn_credit(
    turn_scores: Sequence[float | None], turn_of_token: ArrayLike
) -> NDArray[np.float64]:
    """Return the credit of each token for what its turn changed in the score.

    Turn t has the credit s_t - s_(t-1), spread evenly over its tokens, and the first turn 0. The sum
    over all tokens is therefore the last score minus the first. It is potential-based shaping (Ng,
    Harada and Russell, ICML 1999) with the score as the potential and no discount.

    Args:
        turn_scores: `[T]`, an entry of `batch.turn_scores`.
        turn_of_token: `[L]` whole numbers: the turn of each token from 0, or -1 for a token that the
            policy did not write, e.g. of a tool's result.

    Returns:
        `[L]`. 0 for a token without a turn; NaN after the first turn if the score of the token's turn or
        of the turn before is missing.

    Raises:
        InvalidInput: the shapes or numbers do not fit, or a turn after the first has no token.
    """
    scores = _scores(turn_scores)
    turns = _turns(turn_of_token, len(scores))
    counts = np.bincount(turns[turns >= 0], minlength=len(scores))
    if (empty := np.flatnonzero(counts[1:] == 0) + 1).size:
        raise InvalidInput(
            f"turn_of_token: turn {empty[0]} has no token, so that its credit would be lost; give each"
            " turn after the first at least one"
        )
    credit = np.diff(scores, prepend=scores[:1])
    credit[0] = 0.0
    per_token = credit / np.maximum(counts, 1)
    return np.where(turns >= 0, per_token[turns], 0.0)


def _scores(turn_scores: Sequence[float | None]) -> NDArray[np.float64]:
    try:
        scores = np.array(turn_scores, dtype=np.float64)  # None becomes NaN
    except (TypeError, ValueError) as error:
        raise InvalidInput(
            f"turn_scores: must be one rollout's list of numbers: {error}"
        ) from error
    if scores.ndim != 1 or not scores.size:
        raise InvalidInput(
            f"turn_scores: has the shape {scores.shape}; give the scores of one rollout, one per turn"
        )
    if np.isinf(scores).any():
        raise InvalidInput("turn_scores: must be finite, or None where missing")
    return scores


def _turns(turn_of_token: ArrayLike, count: int) -> NDArray[np.int64]:
    turns = np.asarray(turn_of_token)
    if turns.ndim != 1 or (turns.size and turns.dtype.kind not in "iu"):
        raise InvalidInput(
            f"turn_of_token: has the shape {turns.shape} and the type {turns.dtype}; give one whole"
            " number per token"
        )
    turns = turns.astype(np.int64)
    if turns.size and not (turns.min() >= -1 and turns.max() < count):
        raise InvalidInput(
            f"turn_of_token: has numbers from {turns.min()} to {turns.max()}; the rollout has"
            f" {count} turns: give -1 to {count - 1}"
        )
    return turns
