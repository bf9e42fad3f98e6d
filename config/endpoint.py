"""Configuration of an endpoint: URLs, name of the API key, limits, prices."""

import json
import math
import re
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from oyer.config.section import MAX_TIME_S, MAX_USD, Section
from oyer.config.urls import HttpUrl
from oyer.config.variables import VariableName

MAX_DEPTH = 64
"""Levels of nested lists and mappings in a request's body."""

_QUANTILE = re.compile(r"p([5-9]\d)")
_PERCENT = re.compile(r"(\d+(?:\.\d+)?)\s*%")


_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def _depth(value: Any, seen: int = 0) -> int:
    """Count the nested levels of a value, up to one more than `MAX_DEPTH`."""
    inner = value.values() if isinstance(value, dict) else value
    if seen > MAX_DEPTH or not isinstance(value, (dict, list, tuple)):
        return seen
    return max((_depth(item, seen + 1) for item in inner), default=seen + 1)


def _plain_json(body: dict[str, Any]) -> dict[str, Any]:
    """Convert a body to plain JSON values, so that all processes read the same."""
    if _depth(body) > MAX_DEPTH:
        raise ValueError(f"nests deeper than {MAX_DEPTH} levels; flatten it")
    try:
        plain: dict[str, Any] = json.loads(json.dumps(body, allow_nan=False))
        json.dumps(plain, ensure_ascii=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            "holds a value that JSON cannot represent; use text, finite numbers, lists"
        ) from error
    return plain


def _sendable(headers: dict[str, str]) -> dict[str, str]:
    """Check names and values by RFC 9110, section 5; errors do not show values, which may be keys."""
    for name, value in headers.items():
        if not _HEADER_NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no header name; use letters, digits and `-`")
        if not (value.isascii() and value.isprintable()):
            raise ValueError(
                f"the value of {name!r} holds a line break or a character that headers cannot"
                " hold; use printable ASCII on one line"
            )
    return headers


Headers = Annotated[dict[str, str], AfterValidator(_sendable)]
"""Further headers of every request."""

Body = Annotated[dict[str, Any], AfterValidator(_plain_json)]
"""Fields of a request's body."""


class BaseUrl(Section):
    """One of several servers behind an endpoint."""

    url: HttpUrl
    """Up to and without `/chat/completions`."""
    weight: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    """Share of the calls, relative to the others."""


class Price(Section):
    """What a model costs, in US dollars per million tokens."""

    prompt_usd: float = Field(ge=0, le=MAX_USD)
    """Per million prompt tokens."""
    completion_usd: float = Field(ge=0, le=MAX_USD)
    """Per million completion tokens."""


def _after(value: Any) -> Any:
    """Check a quantile or a number of seconds."""
    if isinstance(value, str) and _QUANTILE.fullmatch(value):
        return value
    if _is_number(value) and 0 < value <= MAX_TIME_S:
        return float(value)
    raise ValueError(
        "must be a quantile from p50 to p99, e.g. `p95`, or a number of seconds above 0"
    )


def _part(value: Any) -> Any:
    """Convert `5%` to 0.05."""
    percent = _PERCENT.fullmatch(value) if isinstance(value, str) else None
    part = float(percent[1]) / 100 if percent else value
    if _is_number(part) and 0 < part <= 1:
        return float(part)
    raise ValueError(
        "must be a part of the calls, above 0 % and at most 100 %, e.g. `5%` or 0.05; to hedge"
        " nothing, leave out `hedge`"
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


class Hedge(Section):
    """When a call that takes unusually long gets a second request. The first complete reply counts, the
    other request is cancelled, and both are paid."""

    after: Annotated[str | float, BeforeValidator(_after)] = "p95"
    """Time in flight from which on a call may get a second request: a quantile of the recent latencies of
    its endpoint and model, from `p50` to `p99`, or a number of seconds."""
    at_most: Annotated[float, BeforeValidator(_part)] = 0.05
    """Most second requests as a part of the calls, e.g. `5%` or 0.05."""

    @property
    def quantile(self) -> float | None:
        """`after` as a fraction; None if it is a time."""
        return int(self.after[1:]) / 100 if isinstance(self.after, str) else None

    @property
    def after_s(self) -> float | None:
        """`after` in seconds; None if it is a quantile."""
        return None if isinstance(self.after, str) else self.after


class EndpointConfig(Section):
    """An OpenAI-compatible server, as the workers reach it."""

    base_url: HttpUrl | None = None
    """Up to and without `/chat/completions`, e.g. `https://api.deepseek.com/v1`."""
    base_urls: tuple[BaseUrl, ...] = ()
    """Several servers in place of `base_url`; one that fails is skipped for some seconds."""
    api_key_env: VariableName | None = None
    """Name of the workers' environment variable that holds the key; none for open servers."""
    max_in_flight: int = Field(default=64, ge=1, le=100_000)
    """Calls under way at once, over all workers and hosts together."""
    timeout_s: float = Field(default=60.0, gt=0, le=MAX_TIME_S)
    """Longest time that one attempt may take, in seconds."""
    max_attempts: int = Field(default=4, ge=1, le=20)
    """HTTP requests for one judgement, retries included, before it fails."""
    requests_per_minute: int | None = Field(default=None, ge=1, le=10**9)
    """Requests begun in any minute, over all workers and hosts together."""
    tokens_per_minute: int | None = Field(default=None, ge=1, le=10**12)
    """Prompt and completion tokens in any minute, over all workers and hosts together."""
    adaptive: bool = False
    """Learn how many concurrent calls the endpoint tolerates, up to `max_in_flight`, from its 429s."""
    hedge: Hedge | None = None
    """Send a second request for the slowest calls, e.g. `{after: p95, at_most: 5%}`; null never does."""
    headers: Headers = Field(default_factory=dict, repr=False)
    """Further HTTP headers of every request; put secrets into the environment."""
    extra_body: Body = Field(default_factory=dict)
    """Further fields of every request's body."""
    prices: dict[str, Price] = Field(default_factory=dict)
    """By model name; a model without a price costs 0 on record, and is `rejected` under a `budget`."""

    @model_validator(mode="after")
    def _one_way_in(self) -> Self:
        if (self.base_url is None) == (not self.base_urls):
            raise ValueError("give either `base_url` or `base_urls`")
        return self

    @model_validator(mode="after")
    def _hedge_possible(self) -> Self:
        if self.hedge is None:
            return self
        if self.max_in_flight < 2:
            raise ValueError(
                "hedge: needs a `max_in_flight` of at least 2, because a second request counts as a"
                " call in flight; raise it, or leave out `hedge`"
            )
        after_s = self.hedge.after_s
        if after_s is not None and after_s >= self.timeout_s:
            raise ValueError(
                f"hedge.after: no call is in flight for {after_s:g} s, because `timeout_s` is"
                f" {self.timeout_s:g}; give less, or a quantile such as `p95`"
            )
        return self

    @property
    def servers(self) -> tuple[BaseUrl, ...]:
        """The base URLs with their weights, one or several."""
        return self.base_urls or (BaseUrl(url=str(self.base_url)),)
