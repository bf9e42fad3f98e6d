"""Net win rates from comparisons of two responses; pure."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Record(NamedTuple):
    """The matches of one response."""

    wins: int = 0
    losses: int = 0
    ties: int = 0

    @property
    def rate(self) -> float:
        """Net win rate, `(wins - losses) / matches`, from -1 to 1; 0 without a match."""
        matches = sum(self)
        return (self.wins - self.losses) / matches if matches else 0.0


def matches(outcomes: Mapping[tuple[int, int], int]) -> dict[tuple[int, int], int]:
    """Merge the comparisons of two responses to one match.

    Args:
        outcomes: by (shown first, shown second): 1 if the first won, -1 if the second did, 0 for a
            tie.

    Returns:
        By pair, from the view of its first: with both orders, a win counts if both agree; otherwise
        it is a tie (MT-Bench, arXiv 2306.05685, section 3.4).
    """
    merged: dict[tuple[int, int], int] = {}
    for (a, b), outcome in outcomes.items():
        if (b, a) in merged:
            merged[b, a] = merged[b, a] if merged[b, a] == -outcome else 0
        else:
            merged[a, b] = outcome
    return merged


def records(n: int, outcomes: Mapping[tuple[int, int], int]) -> list[Record]:
    """Return the matches of each of `n` responses; `outcomes` as for `matches`."""
    counts: list[Counter[str]] = [Counter() for _ in range(n)]
    for (a, b), outcome in matches(outcomes).items():
        counts[a][_name(outcome)] += 1
        counts[b][_name(-outcome)] += 1
    return [Record(**count) for count in counts]


def _name(outcome: int) -> str:
    return "ties" if outcome == 0 else "wins" if outcome > 0 else "losses"


def account(opponents: Sequence[tuple[str, int, str]]) -> str:
    """Describe a response's matches for the record, one comparison a line.

    Args:
        opponents: who it was compared with, the outcome for it, and the judge's reason.
    """
    words = {"wins": "won", "losses": "lost", "ties": "tied"}
    return "\n".join(
        f"{words[_name(outcome)]} against {opponent}: {reason}"
        for opponent, outcome, reason in opponents
    )
