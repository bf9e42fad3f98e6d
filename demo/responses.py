"""Actions of the judge server on a request, and a catalogue of named actions."""

import json
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, get_args

from oyer.protocol.errors import InvalidConfig

Latency = Callable[[], float]
"""Draws the seconds until the reply begins."""

Fault = Literal["reset", "close", "reset_mid_body", "short_body", "half_json", "drip", "black_hole"]
"""Transport faults:
`reset` and `close` end the connection before a reply, by RST and by FIN;
`reset_mid_body` and `short_body` end it within the body, by RST and by FIN;
`half_json` is a complete reply with half of the JSON;
`drip` sends the reply in small pieces; `black_hole` never answers."""

RetryAfterForm = Literal["seconds", "date", "ms", "reset_requests", "reset_tokens"]
"""Headers with the time of the next retry: `Retry-After: 2`, the same as an HTTP date,
`retry-after-ms: 1500`, `x-ratelimit-reset-requests: 1m30s`, `x-ratelimit-reset-tokens: 1m30s`."""


def uniform(low_s: float, high_s: float, *, seed: int = 0) -> Latency:
    """Return latencies with a uniform distribution."""
    draw = random.Random(seed)
    return lambda: draw.uniform(low_s, high_s)


def lognormal(median_s: float, sigma: float, *, seed: int = 0) -> Latency:
    """Return latencies with a log-normal distribution; `sigma` is that of their logarithm."""
    draw, mean = random.Random(seed), math.log(median_s)
    return lambda: draw.lognormvariate(mean, sigma)


def pareto(least_s: float, alpha: float, *, seed: int = 0) -> Latency:
    """Return latencies with a Pareto distribution: P(latency > x) = (least_s / x) ** alpha."""
    draw = random.Random(seed)
    return lambda: least_s * draw.paretovariate(alpha)


_DISTRIBUTIONS = {"uniform": uniform, "lognormal": lognormal, "pareto": pareto}


@dataclass(frozen=True, kw_only=True)
class Action:
    """How to answer a request; the defaults score the response and answer at once."""

    name: str = "reply"
    """Written to the log."""
    latency_s: float | Latency = 0.0
    """Seconds from the last byte of the request to the first byte of the reply."""
    hold: bool = False
    """Wait after the latency until `release` is called."""
    text: str | Sequence[str] | None = None
    """Text of the reply; a list is used in turn; None lets the rule judge score."""
    message: Mapping[str, Any] = field(default_factory=dict)
    """Merged into the reply's `message`: refusal, reasoning_content, a null content …"""
    choice: Mapping[str, Any] = field(default_factory=dict)
    """Merged into the reply's `choices[0]`: finish_reason …"""
    top_logprobs: Mapping[str, float] | None = None
    """Adds logprobs; these tokens are the candidates for the last number in the text."""
    usage: bool = True
    """Whether the reply has `usage`."""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str = "application/json"
    body: str | None = None
    """Sent instead of a completion."""
    retry_after_s: float | None = None
    retry_after_form: RetryAfterForm = "seconds"
    fault: Fault | None = None
    drip_bytes: int = 64
    drip_pause_s: float = 0.01

    def __post_init__(self) -> None:
        if not (callable(self.latency_s) or self.latency_s >= 0):
            raise InvalidConfig(f"latency_s {self.latency_s!r} is negative")
        if not 200 <= self.status <= 599:
            raise InvalidConfig(f"status {self.status!r} is not an HTTP status from 200 to 599")
        if self.fault is not None and self.fault not in get_args(Fault):
            raise InvalidConfig(f"fault {self.fault!r} is none of {', '.join(get_args(Fault))}")
        if self.retry_after_form not in get_args(RetryAfterForm):
            forms = ", ".join(get_args(RetryAfterForm))
            raise InvalidConfig(f"retry_after_form {self.retry_after_form!r} is none of {forms}")
        if self.drip_bytes < 1:
            raise InvalidConfig("drip_bytes is at least 1")


def _error(status: int, code: str, message: str, kind: str = "invalid_request_error") -> Action:
    """Create an error of OpenAI: https://platform.openai.com/docs/guides/error-codes."""
    error = {"message": message, "type": kind, "param": None, "code": code}
    return Action(status=status, body=json.dumps({"error": error}))


_ERRORS = {
    "context_length_exceeded": _error(
        400,
        "context_length_exceeded",
        "This model's maximum context length is 8192 tokens. Please reduce the length.",
    ),
    "invalid_request": _error(400, "invalid_value", "Invalid value for a parameter."),
    "response_format_unsupported": _error(
        400, "unsupported_parameter", "'response_format' is not supported with this model."
    ),
    "unauthorized": _error(401, "invalid_api_key", "Incorrect API key provided."),
    "payment_required": _error(402, "insufficient_balance", "Insufficient Balance"),
    "forbidden": _error(403, "unsupported_country", "Country, region, or territory not supported."),
    "not_found": _error(404, "model_not_found", "The model does not exist."),
    "request_timeout": _error(408, "timeout", "The request timed out.", "server_error"),
    "conflict": _error(409, "conflict", "The resource is being changed."),
    "rate_limited": _error(
        429, "rate_limit_exceeded", "Rate limit reached for requests.", "requests"
    ),
    "insufficient_quota": _error(
        429, "insufficient_quota", "You exceeded your current quota.", "insufficient_quota"
    ),
    "server_error": _error(500, "server_error", "The server had an error.", "server_error"),
    "bad_gateway": _error(502, "bad_gateway", "Bad gateway.", "server_error"),
    "unavailable": _error(503, "overloaded", "The engine is overloaded.", "server_error"),
    "gateway_timeout": _error(504, "timeout", "Upstream timed out.", "server_error"),
}

_REPLIES = {
    "reply": Action(),
    "refusal": Action(message={"content": None, "refusal": "I'm sorry, I can't help with that."}),
    "cut_reply": Action(
        text="The response first sets up the equation and then", choice={"finish_reason": "length"}
    ),
    "content_filter": Action(text="", choice={"finish_reason": "content_filter"}),
    "empty_content": Action(text=""),
    "null_content": Action(message={"content": None}),
    "reasoning": Action(message={"reasoning_content": "The last step looks doubtful: 3 or 4?"}),
    "logprobs": Action(text="Final score: 8", top_logprobs={"8": -0.4, "7": -1.6, "9": -2.3}),
    "no_usage": Action(usage=False),
    "error_body": replace(_ERRORS["server_error"], status=200),
    "html": Action(body="<html><body>Welcome to nginx!</body></html>", content_type="text/html"),
    "redirect": Action(status=307, headers={"Location": "/elsewhere/v1/chat/completions"}, body=""),
}

ACTIONS: dict[str, Action] = {
    name: replace(action, name=name)
    for name, action in {
        **_REPLIES,
        **_ERRORS,
        **{fault: Action(fault=fault) for fault in get_args(Fault)},
    }.items()
}
"""All actions by name; `named` returns one with changes."""


def named(name: str, **changes: Any) -> Action:
    """Return an action of the catalogue with some fields changed.

    Raises:
        InvalidConfig: the name, a field or a value is unknown.
    """
    if name not in ACTIONS:
        raise InvalidConfig(f"no action {name!r}; there are: {', '.join(ACTIONS)}")
    known = {declared.name for declared in fields(Action)}
    if unknown := changes.keys() - known:
        raise InvalidConfig(f"an action has no {sorted(unknown)}; it has {sorted(known)}")
    return replace(ACTIONS[name], **changes)


def action_from_json(raw: Any) -> Action:
    """Create an action from JSON: a name of the catalogue, or an object with a name and changes.

    A latency is a number of seconds or one distribution with its parameters, e.g.
    `{"lognormal": [0.5, 0.8], "seed": 1}`.

    Raises:
        InvalidConfig: the value is not an action.
    """
    changes = {"name": raw} if isinstance(raw, str) else raw
    if not isinstance(changes, dict):
        raise InvalidConfig(f"an action is a name or an object, not {raw!r}")
    if isinstance(changes.get("latency_s"), dict):
        changes = {**changes, "latency_s": _latency_from_json(changes["latency_s"])}
    name = changes.get("name", "reply")
    try:
        return named(name, **{key: value for key, value in changes.items() if key != "name"})
    except TypeError as error:
        raise InvalidConfig(f"action {raw!r}: {error}") from error


def _latency_from_json(raw: dict[str, Any]) -> Latency:
    seed = raw.get("seed", 0)
    chosen = raw.keys() - {"seed"}
    if len(chosen) != 1 or not chosen <= _DISTRIBUTIONS.keys():
        raise InvalidConfig(f"latency_s names one of {', '.join(_DISTRIBUTIONS)}, not {raw!r}")
    name = chosen.pop()
    try:
        return _DISTRIBUTIONS[name](*map(float, raw[name]), seed=seed)
    except (TypeError, ValueError) as error:
        raise InvalidConfig(f"latency_s {name} {raw[name]!r}: {error}") from error
