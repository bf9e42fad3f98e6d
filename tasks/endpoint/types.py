"""What one call to a judge is: the request, the reply, and the failure that replaces it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple, Protocol

from oyer.protocol.rollout import Message
from oyer.protocol.status import Status


class RetryClass(StrEnum):
    """Whether another attempt can help."""

    NEVER = "never"
    """The same request would fail again: auth, quota, content filter, other 4xx."""
    TRANSIENT = "transient"
    """Connection, timeout, 408, 409, 5xx, a reply that broke off or is not what was asked for."""
    RATE_LIMIT = "rate_limit"
    """429: the only failure that says the endpoint is asked too much."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ChatRequest:
    """One judge call, as any OpenAI-compatible endpoint takes it; None is left out."""

    model: str
    messages: Sequence[Message]
    temperature: float | None = None
    max_tokens: int | None = None
    response_format: dict[str, Any] | None = None
    logprobs: int | None = None
    """Alternatives wanted for each token of the reply."""
    seed: int | None = None
    reasoning_effort: str | None = None
    extra_body: dict[str, Any] = field(default_factory=dict)
    """Further fields of the body; they win over the endpoint's own."""
    refused: Mapping[str, str | None] = field(default_factory=dict)
    """Fields of the body that the endpoint refuses: their new names, or None to leave them out."""


class TokenLogprob(NamedTuple):
    """One token of a reply, with the endpoint's most likely alternatives."""

    token: str
    logprob: float
    top: tuple[tuple[str, float], ...]
    """(token, logprob) pairs, most likely first as the endpoint sends them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """A complete HTTP 200 with a choice in it; whether it holds a score is read elsewhere."""

    text: str
    """Empty where the endpoint sent null."""
    reasoning: str | None = None
    """What the model thought before it, where the endpoint shows it; no score is read from it."""
    finish_reason: str | None
    refusal: str | None
    prompt_tokens: int
    completion_tokens: int
    usage_reported: bool
    """False where the endpoint sent no usage; the token counts are then 0."""
    model: str
    """The model that the endpoint says has answered."""
    token_logprobs: tuple[TokenLogprob, ...] | None = None
    thought: bool = False
    """Whether the endpoint reports thinking, as text of its own or as tokens."""
    http_status: int = 200
    latency_ms: float = 0.0
    url_index: int = 0
    """Which of the endpoint's base URLs was called."""
    sent: Mapping[str, Any] = field(default_factory=dict)
    """The body that was sent, without its messages."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """Why a call has no reply, and whether another attempt can help."""

    status: Status
    retry: RetryClass
    error_class: str
    """`ReadTimeout`, `RateLimitError`, `ErrorBody` …: the name on record."""
    message: str
    """What the endpoint or the network said; redacted, at most 500 characters."""
    http_status: int | None = None
    """None where no status line arrived."""
    retry_after_s: float | None = None
    """How long the endpoint asks to wait, in seconds."""
    refused: Mapping[str, str | None] = field(default_factory=dict)
    """Fields of the body that caused the failure, as in `ChatRequest`: ask again without them."""
    fingerprint: str | None = None
    """Equal for two 5xx that say the same; None for other failures, gateways' 5xx included."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    usage_reported: bool = False
    """True where the failed call was billed and the endpoint said for how much."""
    latency_ms: float = 0.0
    url_index: int = 0
    sent: Mapping[str, Any] = field(default_factory=dict)
    """As of `Reply`."""


class Client(Protocol):
    """What makes one HTTP request: `oyer.tasks.endpoint.client.EndpointClient`."""

    def complete(self, request: ChatRequest, *, timeout_s: float) -> Reply | Failure:
        """Make one request; never raises for what an endpoint does."""
