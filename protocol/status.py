"""The statuses of a judgement."""

from enum import StrEnum


class Status(StrEnum):
    """Whether a judgement has a score, or why not."""

    SCORED = "scored"
    """The reply was parsed and its score is on the judge's scale."""
    GATED = "gated"
    """The base score is not positive, so the rollout is not judged."""
    EMPTY = "empty"
    """The response is empty."""
    UNPARSEABLE = "unparseable"
    """The reply is complete but contains no score that can be parsed."""
    REFUSED = "refused"
    """The judge declined to answer."""
    TRUNCATED = "truncated"
    """The judge's reply hit the token limit before its score."""
    CONTEXT_OVERFLOW = "context_overflow"
    """The request does not fit the judge's context window."""
    RATE_LIMITED = "rate_limited"
    """The endpoint rate-limited the call until retries or the deadline ended."""
    TIMEOUT = "timeout"
    """The endpoint did not answer in time."""
    UNAVAILABLE = "unavailable"
    """Connection failure, 5xx, or an interrupted reply."""
    REJECTED = "rejected"
    """The endpoint or this worker's configuration refused the request (4xx, auth)."""
    OVER_BUDGET = "over_budget"
    """The run's budget was spent before the call."""
    EXPIRED = "expired"
    """The batch's deadline passed before the call."""


NOT_CALLED = frozenset({Status.GATED, Status.EMPTY})
"""Decisions not to call a judge; not failures."""

SETTLED = frozenset({Status.SCORED, *NOT_CALLED})
"""Final statuses. Any other status is a failure: a resubmission judges the rollout again."""
