"""A criterion, and what a judge's criteria must have in common; pure."""

from collections.abc import Sequence
from typing import Literal, Self

from pydantic import Field, model_validator

from oyer.config.section import Section

MAX_CRITERIA = 200
"""Most criteria of one rollout."""

Combine = Literal["weighted", "points", "signed", "mean", "min", "all", "any"]


class Criterion(Section):
    """One thing that a judge gives a verdict on: true or false, or one of `choices`."""

    name: str = Field(min_length=1, max_length=200, pattern=r"^[^\r\n]*\S[^\r\n]*$")
    """Names the criterion in replies, results and on record; unique within a judge."""
    text: str = Field(min_length=1, max_length=20_000, pattern=r"\S")
    """What is judged, as a statement about the response or a question."""
    weight: float = Field(default=1.0, gt=0, le=1e6)
    """Its share beside the other criteria."""
    points: float | None = Field(default=None, ge=-1e6, le=1e6)
    """In place of `weight`; a negative number marks a pitfall: a fault if the response has it."""
    choices: tuple[str, ...] = ()
    """Verdicts to choose from, worst to best, in place of true or false."""
    required: bool = False
    """If it is not fully met, the other criteria count nothing: the judge's score is 0 at most."""

    @property
    def counted(self) -> float:
        """The weight with its sign; negative for a pitfall."""
        return self.weight if self.points is None else self.points

    @property
    def pitfall(self) -> bool:
        """Whether the criterion describes a fault."""
        return self.counted < 0

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.points is not None and "weight" in self.model_fields_set and self.weight != 1.0:
            raise ValueError("give `weight` or `points`, not both")
        if self.points == 0:
            raise ValueError("points: 0 counts nothing; leave the criterion out")
        if len(self.choices) == 1 or len(set(self.choices)) < len(self.choices):
            raise ValueError("choices: must be two different ones or more, worst to best")
        if any(not choice.strip() or choice != choice.strip() for choice in self.choices):
            raise ValueError("choices: must be texts without surrounding spaces")
        if self.choices and self.pitfall:
            raise ValueError(
                "choices: a pitfall (negative `points`) is true or false; turn the text round and"
                " give a positive weight"
            )
        return self


def problem_of(criteria: Sequence[Criterion], combine: Combine) -> str | None:
    """Return what is wrong with a judge's criteria as a whole, `[i].key: …`, or None."""
    if len(criteria) > MAX_CRITERIA:
        return f": has {len(criteria)} criteria, more than {MAX_CRITERIA}"
    names: dict[str, int] = {}
    for i, criterion in enumerate(criteria):
        if names.setdefault(criterion.name, i) != i:
            return (
                f"[{i}]: {criterion.name!r} is also the name of [{names[criterion.name]}];"
                " names are unique"
            )
        if combine == "any" and criterion.pitfall:
            return f"[{i}]: {criterion.name!r} is a pitfall, which `any` cannot count; use `points`"
    if combine == "points" and criteria and not any(c.counted > 0 for c in criteria):
        return ": has no criterion with positive points, which `points` divides by"
    return None
