"""The counters and histograms that workers and trainers keep in Redis for `oyer metrics`.

No label may grow without a bound: no batch, step or worker. The values of `run` are bounded by
`measurements.RUNS_SHOWN`.
"""

from dataclasses import dataclass

from oyer.protocol import names


@dataclass(frozen=True)
class Measured:
    """A counter, or a histogram if it has buckets."""

    name: str
    """As exported; the client library adds `_total` to a counter."""
    help: str
    labels: tuple[str, ...] = ()
    buckets_s: tuple[float, ...] = ()
    """Upper bounds of a histogram's buckets, in seconds, without +Inf."""
    known: tuple[tuple[str, ...], ...] = ()
    """Label values that are exported as 0 before the first event."""

    @property
    def per_run(self) -> bool:
        """Whether its first label is the run."""
        return self.labels[:1] == ("run",)


_BUCKETS_S = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)
"""From 50 ms to 30 minutes, as celery-exporter's queue wait."""

RESUBMISSION_REASONS = ("failed", "stalled", "lost", "submitter_stopped", "operator")
"""Values of the label `reason`; `resubmission_reason` derives them."""

TOKEN_KINDS = ("prompt", "cached", "completion", "reasoning")
"""Values of the label `kind`: `cached` is a part of `prompt`, `reasoning` a part of `completion`."""

JUDGEMENTS = Measured(
    "oyer_judgements",
    "Judgements made. `source`: `called`, `cache`, `record`, `joined` or `none` (no call was needed).",
    ("judge", "status", "source"),
)
ATTEMPTS = Measured(
    "oyer_attempts",
    "HTTP requests to judges. `http_status`: the status, or `none` if no response arrived.",
    ("endpoint", "http_status"),
)
ATTEMPT_SECONDS = Measured(
    "oyer_attempt_seconds",
    "Time from an HTTP request to its response or failure.",
    ("endpoint",),
    _BUCKETS_S,
)
TOKENS = Measured(
    "oyer_tokens",
    "Tokens that endpoints reported. `cached` is a part of `prompt`, `reasoning` of `completion`.",
    ("endpoint", "kind"),
)
COST_USD = Measured(
    "oyer_cost_usd", "Cost of HTTP requests to judges, in US dollars.", ("run", "judge")
)
QUEUE_WAIT_SECONDS = Measured(
    "oyer_queue_wait_seconds",
    "Time from sending a task to its start in a worker.",
    ("queue",),
    _BUCKETS_S,
    tuple((queue,) for queue in names.QUEUES),
)
BATCH_SECONDS = Measured(
    "oyer_batch_seconds",
    "Time from a batch's first submission to its recorded rewards.",
    (),
    _BUCKETS_S,
    ((),),
)
BATCHES_ENDED = Measured(
    "oyer_batches_ended",
    "Batches that ended.",
    ("status",),
    known=(("finished",), ("cancelled",), ("failed",)),
)
RESUBMISSIONS = Measured(
    "oyer_batch_resubmissions",
    "Batches sent again. `reason`: `failed`, `stalled` (no progress), `lost` (Redis lost it),"
    " `submitter_stopped` or `operator` (`oyer batches resume`).",
    ("reason",),
    known=tuple((reason,) for reason in RESUBMISSION_REASONS),
)
TRAINER_WAIT_SECONDS = Measured(
    "oyer_trainer_wait_seconds",
    "Time that a trainer waited in `RewardFuture.result` or `await` for a batch's rewards.",
    (),
    _BUCKETS_S,
    ((),),
)

MEASURED = (
    JUDGEMENTS,
    ATTEMPTS,
    ATTEMPT_SECONDS,
    TOKENS,
    COST_USD,
    QUEUE_WAIT_SECONDS,
    BATCH_SECONDS,
    BATCHES_ENDED,
    RESUBMISSIONS,
    TRAINER_WAIT_SECONDS,
)


def resubmission_reason(why: str) -> str:
    """Return the label of a resubmission's recorded reason, which is free text."""
    if why.startswith("made no progress"):
        return "stalled"
    if why.startswith("is no longer in Redis"):
        return "lost"
    if why.startswith("the process that submitted"):
        return "submitter_stopped"
    return "failed" if why.startswith("failed") else "operator"
