"""Who sent a request, and where its rollouts are filed."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Sender:
    """Who sent a request, and what its URL says."""

    copy: int = 0
    """Its number among concurrent requests with equal bodies."""
    run: str | None = None
    step: int | None = None
    split: str | None = None
    key: str | None = None
    held_for: str | None = None
    """The client whose connection the request holds while it waits; None if it does not hold it."""
