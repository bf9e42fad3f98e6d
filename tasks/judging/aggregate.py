"""Makes one verdict of a judge's samples; pure."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from oyer.models.rows import JudgementRow
from oyer.tasks.config import JudgeConfig
from oyer.tasks.statuses import NOT_CALLED, Status


@dataclass(frozen=True, slots=True)
class Verdict:
    """One judge's verdict on one rollout."""

    score: float | None
    status: str
    error: str | None
    """Why there is no score."""


def aggregate(samples: Sequence[JudgementRow], judge: JudgeConfig) -> Verdict:
    """Take the mean or median of the scored samples, if they are enough.

    Without enough of them the verdict has the status of the first sample that failed.
    """
    first = samples[0]
    if first["status"] in NOT_CALLED:
        return Verdict(first.get("score"), first["status"], None)
    scores = [
        row["score"]
        for row in samples
        if row["status"] == Status.SCORED and row["score"] is not None
    ]
    if len(scores) >= judge.min_valid:
        take = statistics.fmean if judge.aggregate == "mean" else statistics.median
        return Verdict(take(scores), Status.SCORED, None)
    failed = next(row for row in samples if row["status"] != Status.SCORED)
    return Verdict(None, failed["status"], failed.get("error"))
