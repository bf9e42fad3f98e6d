"""The judge server's log: one entry per HTTP request, and statistics over the entries.

The Authorization header is kept as a hash only, so that a log can be printed or stored.
"""

import json
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from oyer.protocol.errors import InvalidInput


@dataclass(slots=True, kw_only=True)
class RequestEntry:
    """One request, from the arrival of its last byte to the last byte of its reply."""

    sequence: int = 0
    """Position in the order of arrival, from 0; `reset` restarts it."""
    arrived_at_s: float = 0.0
    """Monotonic clock of this host, in seconds."""
    arrived_wall_s: float = 0.0
    """Unix time."""
    since_plan_s: float = 0.0
    """Seconds since the plan was installed."""
    method: str = "POST"
    path: str = "/v1/chat/completions"
    header_names: list[str] = field(default_factory=list)
    """Lower case, in the order sent."""
    authorization_sha256: str | None = None
    body: bytes | None = b""
    """The request body; None after the reply if longer than the server's `body_limit_bytes`."""
    body_sha256: str = ""
    model: str | None = None
    in_flight: int = 1
    """Requests in flight on arrival, including this one."""
    action: str = ""
    """Name of the action that the plan chose; empty if no plan was used."""
    status: int | None = None
    """HTTP status of the reply; None if no reply was begun."""
    prompt_tokens: int = 0
    """Tokens of the completion, whether or not its usage was sent; 0 if no whole reply was sent."""
    completion_tokens: int = 0
    finished_at_s: float | None = None
    """Monotonic time when the end of the reply was sent or the connection ended."""

    def json(self) -> dict[str, Any]:
        """Parse the body as a JSON object.

        Raises:
            InvalidInput: the body is not a JSON object, or was too long to keep.
        """
        try:
            parsed = json.loads(self.body or b"")
        except ValueError as error:
            raise InvalidInput(f"the request body is not JSON: {error}") from error
        if not isinstance(parsed, dict):
            raise InvalidInput("the request body is not a JSON object")
        return parsed

    def messages(self) -> list[tuple[str, str]]:
        """Return the role and text of each chat message; the text parts of a message are joined.

        Raises:
            InvalidInput: as for `json`, or `messages` is not a list of messages.
        """
        messages = self.json().get("messages")
        if not isinstance(messages, list) or not all(isinstance(m, dict) for m in messages):
            raise InvalidInput("`messages` is not a list of messages")
        return [(str(m.get("role")), _text(m.get("content"))) for m in messages]

    def record(self) -> dict[str, Any]:
        """Return the entry as JSON values."""
        body = None if self.body is None else self.body.decode("utf-8", "replace")
        return {**{name: getattr(self, name) for name in self.__slots__}, "body": body}

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> "RequestEntry":
        """Create an entry from the values of `record`."""
        body = record["body"]
        return cls(**{**record, "body": None if body is None else body.encode()})


def tokens(arrival: RequestEntry) -> int:
    """Return the sum of prompt and completion tokens."""
    return arrival.prompt_tokens + arrival.completion_tokens


def max_in_flight(log: Iterable[RequestEntry]) -> int:
    """Return the maximum number of requests in flight; one without an end is in flight forever."""
    changes: list[tuple[float, int]] = []
    for arrival in log:
        changes.append((arrival.arrived_at_s, 1))
        if arrival.finished_at_s is not None:
            changes.append((arrival.finished_at_s, -1))
    most = current = 0
    # At equal times, ends sort before arrivals.
    for _, change in sorted(changes):
        current += change
        most = max(most, current)
    return most


def max_in_any_window(
    log: Iterable[RequestEntry],
    window_s: float,
    weight: Callable[[RequestEntry], float] = lambda _: 1,
) -> float:
    """Return the maximum total weight of arrivals in a half-open window of `window_s` seconds."""
    window: deque[tuple[float, float]] = deque()
    most = total = 0.0
    for arrival in sorted(log, key=lambda arrival: arrival.arrived_at_s):
        while window and window[0][0] <= arrival.arrived_at_s - window_s:
            total -= window.popleft()[1]
        window.append((arrival.arrived_at_s, weight(arrival)))
        total += window[-1][1]
        most = max(most, total)
    return most


def calls_per_content(log: Iterable[RequestEntry]) -> Counter[str]:
    """Count the requests by the sha256 of their bodies; above 1 a body was sent again."""
    return Counter(arrival.body_sha256 for arrival in log)


def _text(content: Any) -> str:
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""
