"""The statuses of a judgement: a score, or why there is none."""

from enum import StrEnum


class Status(StrEnum):
    """Why a judgement has a score or has none."""

    SCORED = "scored"
    """The reply was read and its score lies on the judge's scale."""
    GATED = "gated"
    """The base score is not positive, so the rollout is not judged."""
    EMPTY = "empty"
    """The response holds nothing to judge."""
    UNPARSEABLE = "unparseable"
    """The reply was complete but holds no readable score."""
    REFUSED = "refused"
    """The judge declined to answer."""
    TRUNCATED = "truncated"
    """The judge's reply was cut before its verdict."""
    CONTEXT_OVERFLOW = "context_overflow"
    """The request does not fit the judge's context window."""
    RATE_LIMITED = "rate_limited"
    """The endpoint limited the client until retries or time ran out."""
    TIMEOUT = "timeout"
    """The endpoint did not answer in time."""
    UNAVAILABLE = "unavailable"
    """Connection failure, 5xx, or a reply that the endpoint broke off."""
    REJECTED = "rejected"
    """The endpoint or this worker's configuration refused the request (4xx, auth)."""
    OVER_BUDGET = "over_budget"
    """The run's budget was spent before the call."""
    EXPIRED = "expired"
    """The batch's deadline passed before the call."""


NOT_CALLED = frozenset({Status.GATED, Status.EMPTY})
"""Statuses that are decisions, not failures: no call was owed."""

SETTLED = frozenset({Status.SCORED, *NOT_CALLED})
"""Final statuses. Any other status is a failure: a resubmission judges the rollout again."""
