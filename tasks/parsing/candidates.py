"""What a reply says its score is, and how much weight that has against what else it says."""

from dataclasses import dataclass
from enum import IntEnum


class Rank(IntEnum):
    """Weight of a claim by its form; a higher one beats a lower one wherever it stands."""

    LOOSE = -1
    """A score in a sentence about something else: no verdict, but doubt about a weak one."""
    PART = 0
    """About one aspect: `Accuracy score: 6`."""
    PROSE = 1
    """A sentence: `I'd give it a 7`, `8/10`."""
    LABEL = 2
    """A line of its own: `Score: 7`, or a bare number as the last line."""
    FINAL_INLINE = 3
    """A final label inside a sentence: `… so my final score is 7`."""
    FINAL = 4
    """A final label opening a line, `[[7]]`, or a verdict object."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One place of a reply that states a score."""

    start: int
    """Offset in the cleaned reply."""
    span: str
    """The text it was read from."""
    value: float | None
    """None: a score is stated but cannot be relied on, which no weaker claim may replace."""
    rank: Rank
    layer: str
    """Which reader found it."""
    disowned: bool = False
    """The context says that it is not the judge's verdict: quoted, earlier, hypothetical."""
    under_heading: bool = False
    """A heading or list item above it may make it one part of several."""
