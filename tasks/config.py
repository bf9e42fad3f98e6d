"""What one configuration file holds: endpoints, judges, length methods, reward rules, broker, store.

The trainer and the workers read the same file; `endpoints` serve the workers only.
"""

import math
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from oyer.tasks.judging import rubrics
from oyer.tasks.lengths import catalogue


class _Section(BaseModel):
    """A part of the configuration: unknown keys are refused, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


def _no_key_value(name: str | None) -> str | None:
    if name is not None and not name.replace("_", "").isalnum():
        raise ValueError("is the *name* of an environment variable of the workers, never a key")
    return name


class BaseUrl(_Section):
    """One of several servers behind an endpoint."""

    url: str = Field(pattern=r"^https?://")
    """Up to and without `/chat/completions`."""
    weight: float = Field(1.0, gt=0, allow_inf_nan=False)
    """Share of the calls, relative to the others."""


class Price(_Section):
    """What a model costs, in US dollars per million tokens."""

    prompt_usd: float = Field(ge=0, allow_inf_nan=False)
    """Per million prompt tokens."""
    completion_usd: float = Field(ge=0, allow_inf_nan=False)
    """Per million completion tokens."""


class EndpointConfig(_Section):
    """An OpenAI-compatible server, as the workers reach it."""

    base_url: str | None = Field(None, pattern=r"^https?://")
    """Up to and without `/chat/completions`, e.g. `https://api.deepseek.com/v1`."""
    base_urls: tuple[BaseUrl, ...] = ()
    """Several servers in place of `base_url`; one that fails is left alone for a while."""
    api_key_env: Annotated[str | None, AfterValidator(_no_key_value)] = None
    """Name of the workers' environment variable that holds the key; none for open servers."""
    max_in_flight: int = Field(64, ge=1, le=100_000)
    """Calls under way at once, over all workers and hosts together."""
    timeout_s: float = Field(60.0, gt=0)
    """Longest time that one attempt may take, in seconds."""
    max_attempts: int = Field(4, ge=1, le=20)
    """HTTP requests made for one judgement before it is given up."""
    requests_per_minute: int | None = Field(None, ge=1)
    """Requests begun in any minute, over all workers and hosts together."""
    tokens_per_minute: int | None = Field(None, ge=1)
    """Prompt and completion tokens in any minute, over all workers and hosts together."""
    adaptive: bool = False
    """Find how many calls in flight the endpoint bears, up to `max_in_flight`, from its 429s."""
    headers: dict[str, str] = Field(default_factory=dict)
    """Further HTTP headers of every request; secrets belong into the environment."""
    extra_body: dict[str, Any] = Field(default_factory=dict)
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


class JudgeConfig(_Section):
    """A judge: endpoint, model, rubric and sampling settings that score a rollout on a scale."""

    name: str = Field(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9_.-]+$")
    """Names the judge in terms, rows and messages."""
    endpoint: str = Field(min_length=1, max_length=100)
    """Name of an entry of the workers' `endpoints`."""
    model: str = Field(min_length=1, max_length=200)
    """The model name that the endpoint expects."""
    rubric: str = Field("reasoning_en", validate_default=True)
    """A built-in rubric's name, a path to a file, or the text itself (it holds `{response}`)."""
    scale: tuple[float, float] = (1.0, 10.0)
    """Lowest and highest score; a score outside is no score."""
    weight: float = Field(0.1, allow_inf_nan=False)
    """What one point of the judge's score adds to the reward."""
    temperature: float | None = Field(0.0, ge=0, le=2)
    """Sampling temperature; null leaves it to the endpoint."""
    max_tokens: int | None = Field(1024, ge=1)
    """Longest reply, in tokens; null leaves it to the endpoint."""

    samples: int = Field(1, ge=1, le=64)
    """Times that each rollout is judged; the samples' scores are aggregated."""
    aggregate: Literal["mean", "median"] = "mean"
    """How the samples of one rollout become one score."""
    min_valid: int = Field(1, ge=1)
    """Samples that must have a score, or the rollout has none."""
    structured: bool = False
    """Ask for JSON by `response_format`; an endpoint that refuses it is asked in words."""
    reasks: int = Field(1, ge=0, le=5)
    """Times that a judge is asked again for the verdict line that its reply lacks."""
    extra_body: dict[str, Any] = Field(default_factory=dict)
    """Further fields of the request's body, e.g. `{top_p: 0.9}`."""
    empty_score: float | None = Field(None, allow_inf_nan=False)
    """Score of a response that holds nothing to judge; null means the lowest of the scale."""

    @field_validator("scale")
    @classmethod
    def _ordered(cls, scale: tuple[float, float]) -> tuple[float, float]:
        low, high = scale
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ValueError("is [lowest, highest] with lowest < highest, e.g. [1, 10]")
        return scale

    @model_validator(mode="after")
    def _enough_samples(self) -> Self:
        if self.min_valid > self.samples:
            raise ValueError(f"`min_valid` {self.min_valid} is more than `samples` {self.samples}")
        return self

    @field_validator("rubric")
    @classmethod
    def _resolved(cls, rubric: str) -> str:
        return rubrics.resolve(rubric)


class LengthConfig(BaseModel):
    """A length method and its parameters; see `oyer length list` for the methods."""

    model_config = ConfigDict(extra="allow", frozen=True, use_attribute_docstrings=True)

    method: str
    """A method of the catalogue, e.g. `median_band`."""
    weight: float = Field(1.0, allow_inf_nan=False)
    """Multiplies what the method adds; a multiplying method takes none."""

    @model_validator(mode="after")
    def _known(self) -> Self:
        resolved = catalogue.resolve(self.method, self.__pydantic_extra__ or {})
        assert self.__pydantic_extra__ is not None
        self.__pydantic_extra__.update(resolved)
        return self

    @property
    def params(self) -> dict[str, Any]:
        """The method's parameters with its defaults filled in."""
        return dict(self.__pydantic_extra__ or {})


class RewardRules(_Section):
    """How a reward is composed, and what a missing score becomes (DESIGN section 3)."""

    gate: Literal["base_score", "none"] = "base_score"
    """`base_score`: a rollout whose base score is not positive is not judged."""
    on_missing: Literal["skip", "value", "group_mean", "raise"] = "skip"
    """For a failed judgement: leave the row out, use `value`, use the group's mean, or raise."""
    value: float | None = Field(None, allow_inf_nan=False)
    """The judge score used under `on_missing: value`, on the judge's own scale."""
    max_failed_fraction: float = Field(1.0, ge=0, le=1)
    """More of a batch without a score than this raises `JudgeOutage`; 1 never does."""

    @model_validator(mode="before")
    @classmethod
    def _value_in_place(cls, raw: Any) -> Any:
        """`on_missing: {value: 5}` says in one place what two keys say."""
        if isinstance(raw, dict) and isinstance(raw.get("on_missing"), dict):
            inner = raw["on_missing"]
            if set(inner) == {"value"} and "value" not in raw:
                return {**raw, "on_missing": "value", "value": inner["value"]}
        return raw

    @model_validator(mode="after")
    def _value_given(self) -> Self:
        if (self.on_missing == "value") != (self.value is not None):
            raise ValueError("`on_missing: value` and `value: <score>` go together")
        return self


class BrokerConfig(_Section):
    """Redis: messages, results and payloads in transit."""

    url: str | None = Field(None, pattern=r"^(rediss?|redis\+socket|unix)://")
    """`redis://host:6379/0`; none starts an embedded server in `oyer up` and local mode."""
    result_expires_s: int = Field(86_400, ge=600)
    """How long payloads and results stay in Redis, in seconds."""


class StoreConfig(_Section):
    """The SQL record, as the workers reach it."""

    url: str = Field("sqlite:///oyer.db", pattern=r"^(sqlite|postgresql)")
    """`sqlite:///file.db` or `postgresql://user@host/db`."""


class RewardConfig(_Section):
    """Everything one `oyer.yaml` holds."""

    endpoints: dict[str, EndpointConfig] = Field(default_factory=dict)
    """The workers' own; a trainer only names them, and may leave them out."""
    judges: tuple[JudgeConfig, ...] = ()
    """Each scores every rollout; their weighted scores add up."""
    length: tuple[LengthConfig, ...] = ()
    """One length method or a list."""
    reward: RewardRules = RewardRules()
    """How the terms become a reward."""
    broker: BrokerConfig = BrokerConfig()
    """Where messages, payloads and results travel."""
    store: StoreConfig = StoreConfig()
    """Where the record is kept."""
    reuse: Literal["run", "store", "off"] = "store"
    """Where a judgement already paid for is looked up: this run, the whole record, nowhere."""
    tokenizer: str | None = None
    """Hugging Face name or folder; counts tokens where `response_tokens` is left out."""
    deadline_s: float = Field(3600.0, gt=0)
    """Calls not begun this long after `submit` are `expired`, in seconds."""
    stall_timeout_s: float = Field(180.0, gt=0)
    """A batch without progress for this long is submitted again under its id, in seconds."""
    max_rollout_bytes: int = Field(4 * 2**20, ge=1024)
    """Largest prompt plus response of one rollout, in bytes of UTF-8."""

    @field_validator("length", mode="before")
    @classmethod
    def _one_or_many(cls, raw: Any) -> Any:
        return [raw] if isinstance(raw, (dict, LengthConfig)) else (raw or ())

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [judge.name for judge in self.judges]
        for i, judge in enumerate(self.judges):
            if judge.name in names[:i]:
                raise ValueError(f"judges[{i}].name: {judge.name!r} is taken; names are unique")
            if self.endpoints and judge.endpoint not in self.endpoints:
                known = ", ".join(sorted(self.endpoints))
                raise ValueError(
                    f"judges[{i}].endpoint: {judge.endpoint!r} is not in `endpoints` ({known})"
                )
        return self


def plan_of(config: RewardConfig) -> dict[str, Any]:
    """What travels with a batch: judges, length methods and rules, and nothing of the workers'."""
    return config.model_dump(
        mode="json", include={"judges", "length", "reward", "reuse", "tokenizer"}
    )
