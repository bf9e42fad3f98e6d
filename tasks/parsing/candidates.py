"""A candidate score of a reply, and the rank that decides between candidates."""

from dataclasses import dataclass
from enum import IntEnum


class Rank(IntEnum):
    """Weight of a candidate by its form; the highest rank wins, wherever it is in the reply."""

    LOOSE = -1
    """A score in a sentence about something else: never the verdict, but evidence against a weak one."""
    PART = 0
    """A score of one aspect: `Accuracy score: 6`."""
    PROSE = 1
    """A sentence: `I'd give it a 7`, `8/10`."""
    LABEL = 2
    """A separate line: `Score: 7`, or a bare number as the last line."""
    FINAL_INLINE = 3
    """A final label inside a sentence: `… so my final score is 7`."""
    FINAL = 4
    """A final label at the start of a line, `[[7]]`, or a verdict object."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One place in a reply that states a score."""

    start: int
    """Offset in the normalised reply, in characters."""
    span: str
    """The text that the score was read from."""
    value: float | None
    """None if a score is stated but unreliable; no candidate of lower rank replaces it."""
    rank: Rank
    layer: str
    """The reader that found it."""
    disowned: bool = False
    """The context shows that it is not the judge's verdict: quoted, superseded or hypothetical."""
    under_heading: bool = False
    """It is in a list or under a heading, and may score one part of several."""
