"""A chunk's verdicts, made of its judgements: samples to verdicts, verdicts to the part; pure."""

from collections.abc import Iterable, Mapping, Sequence

from oyer.config.reward import JudgeConfig
from oyer.models.rows import JudgementRow, StoredJudgement
from oyer.protocol.partial_results import JudgeResult
from oyer.protocol.status import NOT_CALLED, Status
from oyer.tasks.judging.aggregate import Verdict, aggregate
from oyer.tasks.judging.requests import JudgementKey

FINE = frozenset({Status.SCORED, *NOT_CALLED})
"""Statuses that stand once they are on record; a failure is tried again."""


def place_of(row: JudgementRow | StoredJudgement) -> JudgementKey:
    """Say which judgement a row is."""
    return row["rollout_index"], row["judge"], row["sample"]


def fine_rows(rows: Iterable[StoredJudgement]) -> dict[JudgementKey, StoredJudgement]:
    """Take the judgements that stand, by place."""
    return {place_of(row): row for row in rows if row["status"] in FINE}


def verdicts_on(
    rows: Mapping[JudgementKey, JudgementRow], judge: JudgeConfig, indices: Iterable[int]
) -> dict[int, Verdict]:
    """Make one verdict of a judge's samples for each rollout."""
    samples = range(judge.samples)
    return {i: aggregate([rows[i, judge.name, k] for k in samples], judge) for i in indices}


def part_of(chunk: int, verdicts: Mapping[str, Mapping[int, Verdict]]) -> JudgeResult:
    """Put the verdicts in order for `combine`."""
    ordered = {name: [found[i] for i in sorted(found)] for name, found in verdicts.items()}
    errors: dict[str, str] = {}
    for verdict in (verdict for found in ordered.values() for verdict in found):
        if verdict.error is not None:
            errors.setdefault(verdict.status, verdict.error)
    return JudgeResult(
        chunk=chunk,
        scores={name: [verdict.score for verdict in found] for name, found in ordered.items()},
        statuses={name: [verdict.status for verdict in found] for name, found in ordered.items()},
        errors=errors,
    )


def recorded_part(
    chunk: int,
    indices: Sequence[int],
    judges: Sequence[JudgeConfig],
    fine: Mapping[JudgementKey, StoredJudgement],
) -> JudgeResult | None:
    """Make a chunk's part of what is on record.

    Args:
        fine: judgements that stand. Where all of a judge's do, no fall-back has a say.

    Returns:
        None where one is missing: whether the chunk was judged to its end, nobody can tell then.
    """
    wanted = [(i, judge.name, k) for judge in judges for k in range(judge.samples) for i in indices]
    if not wanted or not fine.keys() >= set(wanted):
        return None
    return part_of(chunk, {judge.name: verdicts_on(fine, judge, indices) for judge in judges})
