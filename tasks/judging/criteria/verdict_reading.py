"""Reads the reply to one call about criteria, and asks again for the verdicts that it lacks; pure."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean

from oyer.config.criteria.criterion import Criterion
from oyer.config.judge import JudgeConfig
from oyer.protocol.status import Status
from oyer.tasks.endpoint.types import Reply
from oyer.tasks.judging.criteria.formulas import Weighed, combined
from oyer.tasks.judging.criteria.verdict_reply import CriterionVerdict, read_verdicts, verdicts_text
from oyer.tasks.judging.criteria.wording import question
from oyer.tasks.judging.reading import ended_without_score, no_score
from oyer.tasks.parsing.finish_reasons import End, end_of
from oyer.tasks.parsing.parser import ParsedScore, parse_score, short_span

LAYER = "verdicts"
"""`ParsedScore.layer` of a reply with verdicts."""

_QUOTED_NAMES = 5
"""Most names that an error lists."""


@dataclass(frozen=True, slots=True)
class ParsedVerdicts(ParsedScore):
    """The verdicts of one call, with those of earlier replies to it."""

    verdicts: Mapping[str, CriterionVerdict] = field(default_factory=dict)
    """By the criterion's name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CriteriaReading:
    """Reads verdicts on the criteria of one call."""

    judge: JudgeConfig
    criteria: tuple[Criterion, ...]
    """Those of the call."""
    total: int
    """Number of the rollout's criteria, of this call and others."""
    language: str
    known: Mapping[str, CriterionVerdict] = field(default_factory=dict)
    """Verdicts of earlier replies; the others were asked for again."""
    last: bool = False
    """Whether what is missing after this reply stays missing."""

    def read(self, reply: Reply) -> ParsedScore:
        """Read the verdicts that are not known yet; those of a reply that is cut off count as well."""
        failed = ended_without_score(reply)
        found = {} if failed else read_verdicts(reply.text, self._open)
        if not found and not self.known:
            failed = failed or self._why_none(reply)
            if failed is not None:
                return failed
        return self._parsed({**self.known, **found}, final=self.last or self.judge.reasks == 0)

    def read_again(self, text: str, expected: float | None) -> ParsedScore | None:
        """Read a reply that was final before."""
        parsed = self._parsed(read_verdicts(text, self.criteria), final=True)
        return parsed if parsed.status is Status.SCORED else None

    def reask(self, parsed: ParsedScore, *, last: bool) -> "tuple[str, CriteriaReading]":
        """Ask for the missing verdicts alone."""
        known = parsed.verdicts if isinstance(parsed, ParsedVerdicts) else self.known
        after = replace(self, known=known, last=last)
        return question(after._open, self.language), after

    def settled(self, parsed: ParsedScore) -> ParsedScore:
        """Return the score of the verdicts that are there, if they are enough."""
        if not isinstance(parsed, ParsedVerdicts) or parsed.status is not Status.UNPARSEABLE:
            return parsed
        final = self._parsed(parsed.verdicts, final=True, reply=parsed.reply)
        return final if final.status is Status.SCORED else parsed

    def _why_none(self, reply: Reply) -> ParsedScore | None:
        """Return why a reply has no verdict, if asking again is no use."""
        if end_of(reply.finish_reason) in (End.CUT, End.UNKNOWN):
            return no_score(Status.TRUNCATED, "finish_reason", reply.finish_reason or "")
        declined = parse_score(reply.text, scale=self.judge.scale)
        return declined if declined.status is Status.REFUSED else None

    @property
    def _open(self) -> list[Criterion]:
        return [one for one in self.criteria if one.name not in self.known]

    def _parsed(
        self, verdicts: Mapping[str, CriterionVerdict], *, final: bool, reply: str | None = None
    ) -> ParsedVerdicts:
        ordered = {c.name: verdicts[c.name] for c in self.criteria if c.name in verdicts}
        missing = [criterion.name for criterion in self.criteria if criterion.name not in ordered]
        score = self._score(ordered) if final or not missing else None
        if self.known:
            reply = verdicts_text(list(ordered.values()))
        return ParsedVerdicts(
            score=math.nan if score is None else score,
            status=Status.UNPARSEABLE if score is None else Status.SCORED,
            layer=LAYER,
            span=short_span("; ".join(one.span for one in ordered.values())),
            reply=reply,
            problem="" if score is not None else _problem(missing, len(self.criteria)),
            verdicts=ordered,
        )

    def _score(self, verdicts: Mapping[str, CriterionVerdict]) -> float | None:
        """Return the judge's score, or the mean value if other calls ask about further criteria."""
        least = self.judge.min_valid_criteria
        if len(self.criteria) == self.total:
            return combined(self.judge.combine_criteria, weighed(self.criteria, verdicts), least)
        # More missing ones than this would leave the rollout without a score.
        spare = 0 if least is None else self.total - min(least, self.total)
        required = [one.name for one in self.criteria if one.required]
        enough = len(verdicts) >= max(1, len(self.criteria) - spare)
        if not enough or not verdicts.keys() >= set(required):
            return None
        return fmean(one.value for one in verdicts.values())


def weighed(
    criteria: Sequence[Criterion], verdicts: Mapping[str, CriterionVerdict]
) -> list[Weighed]:
    """Return verdicts as the formulas read them, one for each criterion."""
    found = [verdicts.get(criterion.name) for criterion in criteria]
    return [
        Weighed(criterion.counted, None if one is None else one.value, criterion.required)
        for criterion, one in zip(criteria, found, strict=True)
    ]


def _problem(missing: Sequence[str], count: int) -> str:
    if not missing:
        return "the verdicts give no score: `points` needs a criterion with positive points"
    names = ", ".join(map(repr, missing[:_QUOTED_NAMES]))
    more = "" if len(missing) <= _QUOTED_NAMES else f" and {len(missing) - _QUOTED_NAMES} more"
    return f"no readable verdict on {names}{more} ({count - len(missing)} of {count} have one)"
