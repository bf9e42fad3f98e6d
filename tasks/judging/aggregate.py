"""Makes one verdict of a judge's samples; pure."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from oyer.config.reward import JudgeConfig
from oyer.models.rows import JudgementRow
from oyer.protocol.status import NOT_CALLED, Status


@dataclass(frozen=True, slots=True)
class Verdict:
    """One judge's verdict on one rollout."""

    score: float | None
    """On the scale that counts."""
    status: str
    error: str | None
    """Why there is no score."""


def aggregate(samples: Sequence[JudgementRow], judge: JudgeConfig) -> Verdict:
    """Take the mean or median of the scored samples, if they are enough.

    Samples that the run's budget left out are not asked for. Without enough of the others the
    verdict has the status of the first sample that failed.
    """
    first = samples[0]
    if first["status"] in NOT_CALLED:
        decided = first.get("score")
        return Verdict(None if decided is None else judge.counted(decided), first["status"], None)
    scores = [
        row["score"]
        for row in samples
        if row["status"] == Status.SCORED and row["score"] is not None
    ]
    asked = sum(row["status"] != Status.OVER_BUDGET for row in samples)
    if len(scores) >= max(1, min(judge.min_valid, asked)):
        take = statistics.fmean if judge.aggregate == "mean" else statistics.median
        return Verdict(judge.counted(take(scores)), Status.SCORED, None)
    failed = next(row for row in samples if row["status"] != Status.SCORED)
    return Verdict(None, failed["status"], failed.get("error"))
