"""Who sent a request, and where its rollouts are filed."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class RequestOrigin:
    """Who sent a request, and what its URL says."""

    run: str | None = None
    step: int | None = None
    split: str | None = None
    key: str | None = None
    key_of_reply: str = ""
    """Identifies the reply that it gets: its content, and its number among concurrent equal requests."""
