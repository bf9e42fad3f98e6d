"""What the judge server saw: one record per HTTP request, and what a log of them proves.

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
    """One request, from its last byte in to the last piece of its reply out."""

    sequence: int = 0
    """Place in the order of arrival, from 0; `reset` starts anew."""
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
    """As sent; None once answered when longer than the server's `body_limit_bytes`."""
    body_sha256: str = ""
    model: str | None = None
    in_flight: int = 1
    """Requests under way on arrival, this one included."""
    action: str = ""
    """Name of the action that the plan chose; empty where no plan was asked."""
    status: int | None = None
    """HTTP status sent; None when the reply never began."""
    prompt_tokens: int = 0
    """What the completion cost, said in its usage or not; 0 when none was sent whole."""
    completion_tokens: int = 0
    finished_at_s: float | None = None
    """Monotonic time when the reply's last piece was sent or the connection ended."""

    def json(self) -> dict[str, Any]:
        """The body as a JSON object.

        Raises:
            InvalidInput: the body is no JSON object, or was too long to keep.
        """
        try:
            parsed = json.loads(self.body or b"")
        except ValueError as error:
            raise InvalidInput(f"the request body is not JSON: {error}") from error
        if not isinstance(parsed, dict):
            raise InvalidInput("the request body is not a JSON object")
        return parsed

    def messages(self) -> list[tuple[str, str]]:
        """Role and text of each chat message; the text parts of one message are joined.

        Raises:
            InvalidInput: as `json`, or `messages` is no list of messages.
        """
        messages = self.json().get("messages")
        if not isinstance(messages, list) or not all(isinstance(m, dict) for m in messages):
            raise InvalidInput("`messages` is not a list of messages")
        return [(str(m.get("role")), _text(m.get("content"))) for m in messages]

    def record(self) -> dict[str, Any]:
        """The arrival as JSON values."""
        body = None if self.body is None else self.body.decode("utf-8", "replace")
        return {**{name: getattr(self, name) for name in self.__slots__}, "body": body}

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> "RequestEntry":
        """Read back what `record` wrote."""
        body = record["body"]
        return cls(**{**record, "body": None if body is None else body.encode()})


def tokens(arrival: RequestEntry) -> int:
    """What the completion cost: prompt and completion tokens."""
    return arrival.prompt_tokens + arrival.completion_tokens


def max_in_flight(log: Iterable[RequestEntry]) -> int:
    """Most requests under way at once; one without an end is under way for ever."""
    changes: list[tuple[float, int]] = []
    for arrival in log:
        changes.append((arrival.arrived_at_s, 1))
        if arrival.finished_at_s is not None:
            changes.append((arrival.finished_at_s, -1))
    most = current = 0
    # At equal times the end sorts before the arrival: the place was free.
    for _, change in sorted(changes):
        current += change
        most = max(most, current)
    return most


def max_in_any_window(
    log: Iterable[RequestEntry],
    window_s: float,
    weight: Callable[[RequestEntry], float] = lambda _: 1,
) -> float:
    """Largest summed weight of the arrivals in any half-open window of `window_s` seconds."""
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
    """How often each request body arrived, by its sha256: above 1, it was sent again."""
    return Counter(arrival.body_sha256 for arrival in log)


def _text(content: Any) -> str:
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""
