"""Reads the reply to one call about criteria, and asks again for the verdicts that it lacks; pure."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean

from oyer.config.criteria.criterion import Criterion
from oyer.config.judge import JudgeConfig
from oyer.protocol.status import Status
from oyer.tasks.endpoint.types import Reply
from oyer.tasks.judging.criteria.formulas import Weighed, combined
from oyer.tasks.judging.criteria.verdict_reply import CriterionVerdict, read_verdicts, verdicts_text
from oyer.tasks.judging.criteria.wording import question
from oyer.tasks.parsing.finish_reasons import End, end_of
from oyer.tasks.parsing.parser import MAX_SPAN_CHARS, ParsedScore, parse_score

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
        end, reason = end_of(reply.finish_reason), reply.finish_reason or ""
        if reply.refusal or end is End.FILTERED:
            return _failed(Status.REFUSED, "refusal", reply.refusal or reason)
        if end is End.BROKEN:
            return _failed(Status.UNAVAILABLE, "finish_reason", reason)
        found = read_verdicts(reply.text, self._open)
        if not found and end in (End.CUT, End.UNKNOWN):
            return _failed(Status.TRUNCATED, "finish_reason", reason)
        if not found and not self.known:
            declined = parse_score(reply.text, scale=self.judge.scale)
            if declined.status is Status.REFUSED:
                return declined
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
            span=_span(ordered.values()),
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


def _span(verdicts: Iterable[CriterionVerdict]) -> str:
    spans = "; ".join(one.span for one in verdicts)
    return " ".join(spans.split())[:MAX_SPAN_CHARS]


def _failed(status: Status, layer: str, span: str) -> ParsedScore:
    return ParsedScore(math.nan, status, layer, " ".join(span.split())[:MAX_SPAN_CHARS])
