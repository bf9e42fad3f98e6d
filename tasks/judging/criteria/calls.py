"""Splits the criteria of a rollout into calls, and joins the judgements of the calls; pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from oyer.config.criteria.criterion import Criterion
from oyer.config.judge import JudgeConfig
from oyer.models.rows import CriterionRow, JudgementRow
from oyer.protocol.rollout import Message
from oyer.protocol.status import Status
from oyer.tasks.judging.criteria.formulas import Weighed, combined
from oyer.tasks.judging.criteria.verdict_reading import CriteriaReading, ParsedVerdicts
from oyer.tasks.judging.criteria.wording import with_criteria
from oyer.tasks.parsing.parser import ParsedScore


@dataclass(frozen=True, slots=True)
class CriteriaCall:
    """One call about some of a rollout's criteria."""

    criteria: tuple[Criterion, ...]
    messages: list[Message]
    reading: CriteriaReading


def calls_of(
    judge: JudgeConfig, criteria: Sequence[Criterion], messages: Sequence[Message], language: str
) -> list[CriteriaCall]:
    """Return the calls about one rollout.

    Args:
        messages: those that all calls begin with, as for a judge of one score.
    """
    size = len(criteria) if judge.criteria_per_call == "all" else judge.criteria_per_call
    return [
        CriteriaCall(
            part,
            with_criteria(messages, part, language),
            CriteriaReading(judge=judge, criteria=part, total=len(criteria), language=language),
        )
        for part in (tuple(criteria[i : i + size]) for i in range(0, len(criteria), size))
    ]


def criterion_rows(criteria: Sequence[Criterion], parsed: ParsedScore | None) -> list[CriterionRow]:
    """Return a row for each criterion of a call; one without a verdict has no value."""
    verdicts = parsed.verdicts if isinstance(parsed, ParsedVerdicts) else {}
    rows: list[CriterionRow] = []
    for i, criterion in enumerate(criteria):
        row: CriterionRow = {
            "position": i,
            "name": criterion.name,
            "weight": criterion.counted,
            "required": criterion.required,
        }
        if (found := verdicts.get(criterion.name)) is not None:
            stated = found.verdict
            row["verdict"] = stated if isinstance(stated, str) else str(stated).lower()
            row["value"], row["reason"], row["span"] = found.value, found.reason, found.span
        rows.append(row)
    return rows


def joined_calls(calls: Sequence[JudgementRow], judge: JudgeConfig) -> JudgementRow:
    """Return the judgements of all calls about a rollout as one: its score, or the first failure.

    A call that failed leaves its criteria without verdicts; the others may be enough.
    """
    rows = [row for call in calls for row in call.get("criteria") or ()]
    weighed = [Weighed(row["weight"], row.get("value"), row["required"]) for row in rows]
    score = combined(judge.combine_criteria, weighed, judge.min_valid_criteria)
    if score is not None:
        return {**calls[0], "status": Status.SCORED, "score": score, "error": None}
    failed = next((call for call in calls if call["status"] != Status.SCORED), None)
    if failed is None:
        error = "the verdicts give no score: `points` needs a criterion with positive points"
        return {**calls[0], "status": Status.UNPARSEABLE, "score": None, "error": error}
    return {**failed, "score": None}


def criteria_results(samples: Sequence[Sequence[JudgementRow]]) -> list[dict[str, Any]]:
    """Return the result on each criterion of a rollout: `name`, `value`, `verdict`, `reason`, `weight`.

    Args:
        samples: the judgements of all calls, for each sample. The value is the mean of the samples;
            verdict and reason are those of the first sample that has them.
    """
    found: dict[str, list[CriterionRow]] = {}
    for calls in samples:
        for row in (row for call in calls for row in call.get("criteria") or ()):
            found.setdefault(row["name"], []).append(row)
    return [_result(rows) for rows in found.values()]


def _result(rows: Sequence[CriterionRow]) -> dict[str, Any]:
    valid = [row for row in rows if row.get("value") is not None]
    first: Mapping[str, Any] = valid[0] if valid else rows[0]
    stated = first.get("verdict")
    return {
        "name": first["name"],
        "value": fmean(row["value"] for row in valid if row["value"] is not None)
        if valid
        else None,
        "verdict": {"true": True, "false": False}.get(stated, stated) if stated else None,
        "reason": first.get("reason"),
        "weight": first["weight"],
    }
