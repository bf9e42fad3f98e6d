"""Who sent a request, and where its rollouts are filed."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class RequestOrigin:
    """Who sent a request, and what its URL says."""

    copy: int = 0
    """Its number among concurrent requests with equal bodies."""
    run: str | None = None
    step: int | None = None
    split: str | None = None
    key: str | None = None
    key_of_reply: str = ""
    """Identifies the reply that it gets."""
