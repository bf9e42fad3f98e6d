"""Types of one judge call: request, reply and failure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple, Protocol

from oyer.protocol.rollout import Message
from oyer.protocol.status import Status


class RetryClass(StrEnum):
    """Whether another attempt can help."""

    NEVER = "never"
    """The same request would fail again: authentication, quota, content filter, other 4xx."""
    TRANSIENT = "transient"
    """Connection error, timeout, 408, 409, 5xx, incomplete reply, not a chat completion."""
    RATE_LIMIT = "rate_limit"
    """429: the only failure that lowers the request rate."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ChatRequest:
    """One judge call to an OpenAI-compatible endpoint; fields that are None are not sent."""

    model: str
    messages: Sequence[Message]
    temperature: float | None = None
    max_tokens: int | None = None
    response_format: dict[str, Any] | None = None
    logprobs: int | None = None
    """Number of alternatives requested for each token of the reply."""
    seed: int | None = None
    reasoning_effort: str | None = None
    extra_body: dict[str, Any] = field(default_factory=dict)
    """Further fields of the body; they override the endpoint's."""
    refused: Mapping[str, str | None] = field(default_factory=dict)
    """Refused fields of the body: their new names, or None to leave them out."""


class TokenLogprob(NamedTuple):
    """One token of a reply, with the endpoint's most likely alternatives."""

    token: str
    logprob: float
    top: tuple[tuple[str, float], ...]
    """(token, logprob) pairs, most likely first as the endpoint sends them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """A complete HTTP 200 with a choice; its score is parsed in `oyer.tasks.parsing`."""

    text: str
    """Empty if the endpoint sent null."""
    reasoning: str | None = None
    """The model's reasoning, if the endpoint returns it; no score is read from it."""
    finish_reason: str | None
    refusal: str | None
    prompt_tokens: int
    completion_tokens: int
    usage_reported: bool
    """False if the endpoint did not send both token counts; a missing one is 0."""
    model: str
    """The model that answered, as the endpoint reports it."""
    token_logprobs: tuple[TokenLogprob, ...] | None = None
    cached_tokens: int = 0
    """Prompt tokens that the provider read from its cache; part of `prompt_tokens`."""
    reasoning_tokens: int = 0
    """Part of `completion_tokens`."""
    thought: bool = False
    """Whether the endpoint reports reasoning, as text or as tokens."""
    http_status: int = 200
    latency_ms: float = 0.0
    url_index: int = 0
    """Index of the base URL that was called."""
    sent: Mapping[str, Any] = field(default_factory=dict)
    """The body that was sent, without its messages."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """Why a call has no reply, and whether to retry it."""

    status: Status
    retry: RetryClass
    error_class: str
    """Name in the record: `ReadTimeout`, `RateLimitError`, `ErrorBody` …"""
    message: str
    """Message of the endpoint or of the network; redacted, at most 500 characters."""
    http_status: int | None = None
    """None if no response arrived."""
    retry_after_s: float | None = None
    """Wait that the endpoint asks for, in seconds."""
    refused: Mapping[str, str | None] = field(default_factory=dict)
    """Fields of the body that caused the failure, as in `ChatRequest`; retry without them."""
    fingerprint: str | None = None
    """Equal for two 5xx with the same message; None for other failures and for gateways' 5xx."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    usage_reported: bool = False
    """True if the endpoint reported the tokens billed for the failed call."""
    latency_ms: float = 0.0
    url_index: int = 0
    sent: Mapping[str, Any] = field(default_factory=dict)
    """As of `Reply`."""


class ChatClient(Protocol):
    """Interface of `oyer.tasks.endpoint.client.EndpointClient`."""

    def complete(self, request: ChatRequest, *, timeout_s: float) -> Reply | Failure:
        """Make one request; failures of the endpoint are returned, not raised."""


class HedgingClient(Protocol):
    """What hedging needs of `oyer.tasks.endpoint.client.EndpointClient`."""

    def pick_url(self) -> int:
        """Return the index of the URL for the first request of a call."""

    def other_url(self, url_index: int) -> int | None:
        """Return the index of the URL for its second request; None if none is healthy."""

    def complete(
        self, request: ChatRequest, *, timeout_s: float, url_index: int | None = None
    ) -> Reply | Failure:
        """Make one request to the URL; failures of the endpoint are returned, not raised."""
