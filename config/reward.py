"""The configuration file: endpoints, judges, length methods, reward rules, broker, store.

Trainer and workers read the same file; only the workers use `endpoints`.
"""

import os
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from oyer.config.condition import Condition
from oyer.config.endpoint import BaseUrl, EndpointConfig, Price
from oyer.config.explaining import suggestion_or_known
from oyer.config.group_judge import check_group_judges
from oyer.config.judge import Fallback, JudgeConfig
from oyer.config.length import LengthConfig, check_lengths, check_source, follows_judges, term_names
from oyer.config.section import MAX_TIME_S, MAX_USD, Section
from oyer.config.urls import broker_url, store_url
from oyer.config.variables import VariableName

__all__ = [
    "BaseUrl",
    "BrokerConfig",
    "Budget",
    "EndpointConfig",
    "Fallback",
    "JudgeConfig",
    "LengthConfig",
    "Price",
    "RewardConfig",
    "RewardRules",
    "SigningConfig",
    "StoreConfig",
    "plan_of",
]


STALL_CALLS = 3
"""Consecutive call time-outs after which a batch counts as stalled."""

MIN_STALL_S = 30.0
"""Shortest stall time-out, in seconds: Redis redelivers a killed worker's messages within 13 s."""


def _off(value: Any) -> Any:
    """Return `off` for False: YAML reads a bare `off` as false."""
    return "off" if value is False else value


class RewardRules(Section):
    """How a reward is composed, and how a missing score is handled."""

    gate: Literal["base_score", "none"] = "base_score"
    """`base_score`: a rollout whose base score is not positive is not judged; `none`: all are judged."""
    zero_unless: str | None = None
    """Base score and judges count as 0 unless this holds: `correct`, or e.g. `judge >= 6`."""
    on_missing: Literal["skip", "value", "group_mean", "raise"] = "skip"
    """For a failed judgement: `skip`, leave the row out; `value`, use the key `value`; `group_mean`, use
    the group's mean; `raise`, raise `MissingScores`."""
    value: float | None = Field(default=None, allow_inf_nan=False)
    """The judge score used under `on_missing: value`, on the scale that counts."""
    max_failed_fraction: float = Field(default=1.0, ge=0, le=1)
    """A larger fraction without a score, of the rollouts that were to be judged (gated and empty ones
    are not), raises `JudgeOutage`; 1 never does."""
    min_valid_judges: int | None = Field(default=None, ge=1)
    """Judges that must have a score, or the rollout has none; null means all. A missing judge then
    counts with the others' mean, as a fraction of each scale; from the top of the scale if its
    `weight` is negative."""

    @model_validator(mode="before")
    @classmethod
    def _value_in_place(cls, raw: Any) -> Any:
        """Expand `on_missing: {value: 5}` into the keys `on_missing` and `value`."""
        if isinstance(raw, dict) and isinstance(raw.get("on_missing"), dict):
            inner = raw["on_missing"]
            if set(inner) == {"value"} and "value" not in raw:
                return {**raw, "on_missing": "value", "value": inner["value"]}
        return raw

    @field_validator("zero_unless")
    @classmethod
    def _condition(cls, text: str | None) -> str | None:
        if text not in (None, "correct"):
            Condition.parse(text)
        return text

    @model_validator(mode="after")
    def _value_given(self) -> Self:
        if (self.on_missing == "value") != (self.value is not None):
            raise ValueError("`on_missing: value` and `value: <score>` go together")
        return self


class Budget(Section):
    """What a run may spend on its judges, over all of its batches, workers and hosts."""

    usd: float = Field(gt=0, le=MAX_USD)
    """Judgements that would pass this are `over_budget`, in US dollars."""
    soft_fraction: float = Field(default=0.8, gt=0, le=1)
    """From this part of `usd` on, each judge is asked for one sample only."""


class SigningConfig(Section):
    """Signs messages and results; those without a trusted signature are refused."""

    key: str
    """PEM file of this host's RSA private key."""
    cert: str
    """PEM file of its certificate."""
    cert_store: str
    """Folder of the certificates to trust: the trainers' and the workers', this one among them."""
    key_password_env: VariableName | None = None
    """Name of the environment variable that holds the key's passphrase; none for a bare key."""
    digest: Literal["sha256", "sha384", "sha512"] = "sha256"
    """Hash that is signed of a message: `sha256`, `sha384` or `sha512`."""

    @field_validator("key", "cert", "cert_store")
    @classmethod
    def _expanded(cls, path: str) -> str:
        return os.path.expanduser(path)


class BrokerConfig(Section):
    """Redis: messages, results and payloads in transit."""

    url: Annotated[str | None, AfterValidator(broker_url)] = Field(default=None, repr=False)
    """`redis://host:6379/0`, `rediss://…` (TLS), `unix:///run/redis.sock?db=0` or
    `redis+sentinel://:password@host:26379,host:26379/mymaster/0`; none starts an embedded server in
    `oyer up` and local mode."""
    result_expires_s: int = Field(default=86_400, ge=600, le=int(MAX_TIME_S))
    """How long payloads and results stay in Redis, in seconds."""
    max_backlog_bytes: int = Field(default=2**30, ge=2**20, le=2**50)
    """Largest total of packed payloads in Redis, in bytes, of unfinished batches and of rollouts that
    wait for their group; beyond it `submit` refuses."""
    signing: SigningConfig | None = None
    """Sign messages and results; null accepts every message in Redis (docs/security.md)."""


class StoreConfig(Section):
    """The SQL database, as the workers reach it."""

    url: Annotated[str, AfterValidator(store_url)] = Field(default="sqlite:///oyer.db", repr=False)
    """`sqlite:///file.db` or `postgresql://user@host/db`."""


class RewardConfig(Section):
    """The content of one `oyer.yaml`."""

    endpoints: dict[str, EndpointConfig] = Field(default_factory=dict)
    """The workers' own; a trainer only names them, and may leave them out."""
    judges: tuple[JudgeConfig, ...] = ()
    """Each scores every rollout; their weighted scores add up."""
    length: tuple[LengthConfig, ...] = ()
    """One length method or a list."""
    reward: RewardRules = Field(default_factory=RewardRules)
    """How the terms become a reward."""
    budget: Budget | None = None
    """What a run may cost; null sets no limit."""
    broker: BrokerConfig = Field(default_factory=BrokerConfig)
    """Where messages, payloads and results travel."""
    store: StoreConfig = Field(default_factory=StoreConfig)
    """Where the record is kept."""
    reuse: Annotated[Literal["run", "store", "off"], BeforeValidator(_off)] = "store"
    """Where a judgement already paid for is looked up: `run` (this run), `store` (the whole record)
    or `off`. It is used for requests with equal messages, rubric, endpoint name, model, sampling
    settings, `extra_body` and sample, to the same state of the model (see a judge's `version`)."""
    run_weights: dict[str, Annotated[float, Field(ge=0.001, le=1000)]] = Field(default_factory=dict)
    """Share of a run in each endpoint's calls while other runs wait as well, relative to theirs, by name
    of the run; 1 for every other run. Only the workers use it."""
    tracing: Annotated[Literal["off", "spans", "texts"], BeforeValidator(_off)] = "off"
    """OpenTelemetry traces of this process: `off`, `spans`, or `texts` to add prompts, responses and
    replies. The collector is named by the standard variables, e.g. `OTEL_EXPORTER_OTLP_ENDPOINT`."""
    tokenizer: str | None = None
    """Hugging Face name or folder; counts tokens where `response_tokens` is left out."""
    deadline_s: float = Field(default=3600.0, gt=0, le=MAX_TIME_S)
    """Calls not begun this long after `submit` are `expired`, in seconds."""
    stall_timeout_s: float | None = Field(default=None, gt=0, le=MAX_TIME_S)
    """A batch without progress for this long is resubmitted under its id, in seconds; null
    means three times the longest `timeout_s` of its endpoints, and 30 s at least."""
    grace_s: float = Field(default=15.0, ge=0, le=86_400)
    """Time that a worker's calls in flight have to finish after SIGTERM, in seconds."""
    max_rollout_bytes: int = Field(default=4 * 2**20, ge=1024, le=2**27)
    """Largest prompt, response, reference and metadata of one rollout, in bytes of UTF-8."""

    @field_validator("length", mode="before")
    @classmethod
    def _one_or_many(cls, raw: Any) -> Any:
        return [raw] if isinstance(raw, (dict, LengthConfig)) else (raw or ())

    @property
    def length_follows_judges(self) -> bool:
        """Whether length terms need judge scores, and so are computed after the judges."""
        return follows_judges(self.length, self.judges)

    @property
    def stall_s(self) -> float:
        """`stall_timeout_s`, or its default, in seconds."""
        if self.stall_timeout_s is not None:
            return self.stall_timeout_s
        asked = {judge.endpoint for judge in self.judges}
        timeouts_s = [e.timeout_s for name, e in self.endpoints.items() if name in asked]
        # A trainer may leave out the endpoints; the workers' time-outs then count as the default.
        default_s: float = EndpointConfig.model_fields["timeout_s"].default
        return max(MIN_STALL_S, STALL_CALLS * max(timeouts_s, default=default_s))

    @model_validator(mode="after")
    def _consistent(self, info: ValidationInfo) -> Self:
        if self.broker.result_expires_s < self.deadline_s:
            raise ValueError(
                f"broker.result_expires_s: {self.broker.result_expires_s} is less than `deadline_s`"
                f" {self.deadline_s:g}: results would expire before their batch ends"
            )
        names = [judge.name for judge in self.judges]
        for i, judge in enumerate(self.judges):
            if judge.name in names[:i]:
                raise ValueError(f"judges[{i}].name: {judge.name!r} is taken; names are unique")
            self._check_endpoints(i, judge)
        check_lengths(self.length, self.judges)
        for i, term in enumerate(term_names(self.length)):
            if term in names:
                raise ValueError(
                    f"length[{i}].name: {term!r} is also the name of a judge, and results are"
                    " returned by name; give the term or the judge another one"
                )
        unless = self.reward.zero_unless
        if unless not in (None, "correct"):
            by_name = {judge.name: judge for judge in self.judges}
            check_source("reward.zero_unless", Condition.parse(unless).source, by_name)
        self._check_group_judges(sent=info.context == SENT)
        by_turn = [judge.name for judge in self.judges if judge.view == "each_turn"]
        if len(by_turn) > 1:
            raise ValueError(
                f"judges[{names.index(by_turn[1])}].view: {by_turn[0]!r} already has `each_turn`, and"
                " `turn_scores` are of one judge; choose another view"
            )
        needed = self.reward.min_valid_judges
        if needed is not None and needed > len(self.judges):
            raise ValueError(
                f"reward.min_valid_judges: {needed} is more than `judges` has ({len(self.judges)})"
            )
        return self

    def _check_group_judges(self, *, sent: bool) -> None:
        conditions = {
            f"length[{i}].correct": item.condition.source
            for i, item in enumerate(self.length)
            if item.condition
        }
        unless = self.reward.zero_unless
        if unless not in (None, "correct"):
            conditions["reward.zero_unless"] = Condition.parse(unless).source
        # An adapter may have set `group_mean` for the pointwise judges beside a group judge.
        on_missing = "skip" if sent else self.reward.on_missing
        check_group_judges(self.judges, on_missing=on_missing, conditions=conditions)

    def _check_endpoints(self, i: int, judge: JudgeConfig) -> None:
        """Refuse unknown endpoints, and a budget for a model without a price."""
        for called, where in ((judge, ""), (judge.fallback, ".fallback")):
            if called is None or not self.endpoints:
                continue
            if called.endpoint not in self.endpoints:
                raise ValueError(
                    f"judges[{i}]{where}.endpoint: {called.endpoint!r} is not in `endpoints`;"
                    f" {suggestion_or_known(called.endpoint, self.endpoints)}"
                )
            if self.budget and called.model not in self.endpoints[called.endpoint].prices:
                raise ValueError(
                    f"endpoints.{called.endpoint}.prices: lacks {called.model!r}; `budget` needs it"
                )


SENT = {"sent": True}
"""Validation context of a plan that a trainer sent; `plan_of` makes it."""


def plan_of(config: RewardConfig) -> dict[str, Any]:
    """Return the part of a configuration that is sent with a batch; the workers' part is left out."""
    return config.model_dump(
        mode="json", include={"judges", "length", "reward", "budget", "reuse", "tokenizer"}
    )
