"""The parts of a configuration that say who judges: endpoints, judges, fall-backs."""

import ipaddress
import json
import math
import re
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from oyer.tasks.judging import rubrics
from oyer.tasks.variables import VariableName

MAX_TIME_S = 30 * 86_400.0
"""Longest time that a key may ask for, in seconds; Python's locks cannot wait for ever longer."""

MAX_USD = 1e6
"""Highest price or budget; it is counted in whole nano-dollars, which must stay exact."""

MAX_DEPTH = 64
"""Levels of nested lists and mappings in a request's body."""

MAX_EXPECTED = 1000
"""Widest scale over which an expected score is taken: each score is looked for in the logprobs."""


class Section(BaseModel):
    """A part of the configuration: unknown keys are refused, values never change."""

    # What is wrong may be a password: an error names the key, and never shows its value.
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


def _depth(value: Any, seen: int = 0) -> int:
    """Count the levels of a value, and no further than is too deep."""
    inner = value.values() if isinstance(value, dict) else value
    if seen > MAX_DEPTH or not isinstance(value, (dict, list, tuple)):
        return seen
    return max((_depth(item, seen + 1) for item in inner), default=seen + 1)


_NAME = re.compile(r"(?![0-9]+(\.[0-9]+){3}$)[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*\.?")
"""A host name as DNS knows it; four numbers are an address, or nothing."""


def names_host(url: str) -> bool:
    """Whether a URL names a host, in ASCII as DNS knows it, and a port that one can connect to."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        if not _NAME.fullmatch(host):
            ipaddress.ip_address(host)
        named = parts.port != 0
    except ValueError:
        return False
    return named and url.isprintable() and " " not in url


_CALLED = re.compile(r"/(chat/completions|completions|responses|embeddings|models)/*$")
"""Ends of a path that belong to one call, and not to a `base_url`."""


def _with_host(url: str) -> str:
    if not url.startswith(("http://", "https://")):
        raise ValueError("must begin with http:// or https://, as in https://api.deepseek.com/v1")
    if not names_host(url):
        raise ValueError(
            "must name a host and a port that can be called, as in http://host:8000/v1; letters beyond"
            " ASCII are written as xn--…"
        )
    if called := _CALLED.search(urlsplit(url).path):
        raise ValueError(
            f"ends in `/{called[1]}`; leave that off, as in https://api.deepseek.com/v1: the path"
            " of a call is added to it"
        )
    return url


HttpUrl = Annotated[str, AfterValidator(_with_host)]
"""Where requests go, up to and without `/chat/completions`."""


def _plain_json(body: dict[str, Any]) -> dict[str, Any]:
    """Take a body apart as JSON would, so that it is the same wherever it is read."""
    if _depth(body) > MAX_DEPTH:
        raise ValueError(f"nests deeper than {MAX_DEPTH} levels; flatten it")
    try:
        plain: dict[str, Any] = json.loads(json.dumps(body, allow_nan=False))
        json.dumps(plain, ensure_ascii=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError("holds what JSON cannot say; use text, finite numbers, lists") from error
    return plain


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
    headers: dict[str, str] = Field(default_factory=dict, repr=False)
    """Further HTTP headers of every request; put secrets into the environment."""
    extra_body: Body = Field(default_factory=dict)
    """Further fields of every request's body."""
    prices: dict[str, Price] = Field(default_factory=dict)
    """By model name; a model without a price costs 0 on record."""

    @model_validator(mode="after")
    def _one_way_in(self) -> Self:
        if (self.base_url is None) == (not self.base_urls):
            raise ValueError("give either `base_url` or `base_urls`")
        return self

    @property
    def servers(self) -> tuple[BaseUrl, ...]:
        """The base URLs with their weights, one or several."""
        return self.base_urls or (BaseUrl(url=str(self.base_url)),)


class Fallback(Section):
    """Who judges in a judge's place, by the same rubric on the same scale."""

    endpoint: str = Field(min_length=1, max_length=100)
    """Name of an entry of the workers' `endpoints`."""
    model: str = Field(min_length=1, max_length=200)
    """The model name that this endpoint expects."""


class JudgeConfig(Section):
    """A judge: endpoint, model, rubric and sampling settings that score a rollout on a scale."""

    name: str = Field(min_length=1, max_length=80, pattern=r"^[A-Za-z0-9_.-]+$")
    """Names the judge in terms, rows and messages."""
    endpoint: str = Field(min_length=1, max_length=100)
    """Name of an entry of the workers' `endpoints`."""
    model: str = Field(min_length=1, max_length=200)
    """The model name that the endpoint expects."""
    version: str | None = Field(default=None, max_length=200, coerce_numbers_to_str=True)
    """Names the model's state, e.g. a checkpoint; judgements under another version are not reused.
    Null: those of other base URLs, or of another model than the endpoint now reports in its
    replies, are not reused. `""`: any are, also those of releases without versions."""
    rubric: str = Field(default="reasoning_en", validate_default=True)
    """A built-in rubric's name, a path from this file's folder, or the text (with `{response}`)."""
    scale: tuple[float, float] = (1.0, 10.0)
    """Lowest and highest score; a reply with a score outside counts as `unparseable`."""
    normalize: bool = False
    """Count scores from 0 to 1 in place of `scale`, in rewards and wherever they are returned."""
    weight: float = Field(default=0.1, allow_inf_nan=False)
    """What one point of the judge's score adds to the reward."""
    temperature: float | None = Field(default=0.0, ge=0, le=2)
    """Sampling temperature; null leaves it to the endpoint."""
    max_tokens: int | None = Field(default=1024, ge=1, le=10**7)
    """Longest reply, in tokens; null leaves it to the endpoint."""

    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = (
        None
    )
    """How much a reasoning model thinks; null leaves it to the endpoint."""

    samples: int = Field(default=1, ge=1, le=64)
    """Times that each rollout is judged, at temperature 0 with a `seed` each; then aggregated."""
    aggregate: Literal["mean", "median"] = "mean"
    """How the samples of one rollout become one score: `mean` or `median`."""
    min_valid: int = Field(default=1, ge=1)
    """Samples that must have a score, or the rollout has none."""
    structured: bool = False
    """Ask for JSON by `response_format`; an endpoint that refuses it is asked in words."""
    reasks: int = Field(default=1, ge=0, le=5)
    """Times that a judge is asked again for the verdict line that its reply lacks."""
    expected_score: bool = False
    """Score by the mean over the scores that the judge might have written, from its logprobs."""
    fallback: Fallback | None = None
    """Re-judges the whole group if the judge fails on any of it; submit the rollouts of a group together."""
    extra_body: Body = Field(default_factory=dict)
    """Further fields of the request's body, e.g. `{top_p: 0.9}`."""
    empty_score: float | None = Field(default=None, allow_inf_nan=False)
    """Score of a response that holds nothing to judge; null means the lowest of the scale."""

    @field_validator("scale")
    @classmethod
    def _ordered(cls, scale: tuple[float, float]) -> tuple[float, float]:
        low, high = scale
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ValueError("must be [lowest, highest] with lowest < highest, e.g. [1, 10]")
        return scale

    @model_validator(mode="after")
    def _enough_samples(self) -> Self:
        if self.min_valid > self.samples:
            raise ValueError(f"`min_valid` {self.min_valid} is more than `samples` {self.samples}")
        return self

    @model_validator(mode="after")
    def _whole_scores(self) -> Self:
        low, high = self.scale
        if self.expected_score and not (
            low.is_integer() and high.is_integer() and high - low <= MAX_EXPECTED
        ):
            raise ValueError(
                f"`expected_score` needs a `scale` between whole numbers, {MAX_EXPECTED} apart at"
                " most"
            )
        return self

    @property
    def counted_scale(self) -> tuple[float, float]:
        """The scale that scores are on where they count."""
        return (0.0, 1.0) if self.normalize else self.scale

    def counted(self, score: float) -> float:
        """Take a score from the judge's scale to the one that counts."""
        low, high = self.scale
        return (score - low) / (high - low) if self.normalize else score

    @property
    def substitute(self) -> "JudgeConfig | None":
        """The fall-back as a judge of its own; no configured name holds a slash.

        The judge's `version` is of its own model, not of the fall-back's.
        """
        if self.fallback is None:
            return None
        place = {"endpoint": self.fallback.endpoint, "model": self.fallback.model}
        changed = {**place, "name": f"{self.name}/fallback", "fallback": None, "version": None}
        return self.model_copy(update=changed)

    @field_validator("rubric")
    @classmethod
    def _resolved(cls, rubric: str, info: ValidationInfo) -> str:
        return rubrics.resolve(rubric, **(info.context or {}))
