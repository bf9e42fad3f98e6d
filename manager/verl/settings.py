"""Settings of `LengthPenaltyRewardManager`, and their conversion to a reward configuration."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from oyer.config.loading import load_config, validate
from oyer.config.reward import EndpointConfig, RewardConfig
from oyer.config.variables import shown
from oyer.manager.adapters import with_deadline
from oyer.protocol.errors import InvalidConfig

JUDGE_NAME = "quality"
"""The judge's name in rows and terms."""

KEY_VARIABLE = "OYER_JUDGE_API_KEY"
"""Environment variable that passes an API key given by value to workers on this machine."""

_ENDPOINT_NAME = "judge"
_COMPLETIONS = "/chat/completions"


@dataclass(frozen=True, kw_only=True)
class LengthPenaltyConfig:
    """The replaced system's settings with their names and defaults, and some of Oyer's."""

    enable: bool = True
    """Whether to compute a length penalty."""
    use_async_io: bool = False
    """True: workers judge. False: this process judges, without broker or record, for debugging."""
    api_key: str | None = None
    """The API key by value; only for this process and the workers that it starts."""
    model_name: str = "deepseek-v3"
    """The judge's model."""
    api_endpoint: str | None = None
    """`…/v1/chat/completions` or `…/v1`; if unset, this machine has no judge."""
    max_concurrent_requests: int = 10
    """Calls in flight on this machine; remote workers use their endpoint's `max_in_flight`."""
    reward_coefficient: float = 1.0
    """Reward per point of the judge's score."""
    penalty_scale: float = 1.0
    """Multiplies the length penalty."""
    max_penalty: float = 1.0
    """The largest length penalty, before `penalty_scale`."""
    peak_ratio: float = 0.3
    """Half width of the band without penalty, as a fraction of the group's median length."""
    outer_ratio: float = 0.5
    """Distance from the median at which the penalty is largest, as a fraction of the median."""

    api_key_env: str | None = None
    """Name of the environment variable with the API key, instead of `api_key`."""
    rubric: str = "tool_call_zh"
    """A built-in rubric's name, a file, or the text."""
    on_missing: Literal["unjudged", "group_mean", "raise"] = "group_mean"
    """For a row without a score: drop the judge's term, use the group's mean score (and drop the
    judge's term of the whole group if no row has a score), or raise."""
    oyer_config: str | None = None
    """An `oyer.yaml` with broker, store and endpoints; by default the one in `OYER_CONFIG`."""
    broker_url: str | None = None
    """Redis of running workers; overrides the file. Without either, workers start here."""
    endpoint: str | None = None
    """The remote workers' endpoint to use; required if they have several."""
    run: str = "verl"
    """The training run on record."""
    timeout_s: float = 600.0
    """Longest wait for a batch, in seconds."""
    track: str | None = None
    """Tracker to log each batch to: `wandb`, `mlflow`, `tensorboard` or `trackio`."""

    @classmethod
    def of(cls, raw: Any) -> "LengthPenaltyConfig":
        """Read settings from a mapping or an object's attributes, as the replaced system did.

        Raises:
            InvalidConfig: a key of a mapping is unknown.
        """
        if raw is None or isinstance(raw, cls):
            return raw or cls(enable=False)
        names = [item.name for item in fields(cls)]
        if hasattr(raw, "keys"):
            unknown = sorted(set(raw.keys()) - set(names))
            if unknown:
                raise InvalidConfig(f"length_penalty_config: unknown {', '.join(unknown)}")
            return cls(**{name: raw[name] for name in raw.keys()})  # noqa: SIM118 - OmegaConf's
        return cls(**{name: getattr(raw, name) for name in names if hasattr(raw, name)})


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """Where a batch is scored, and with which configuration."""

    mode: Literal["direct", "local", "remote"]
    config: RewardConfig
    environ: Mapping[str, str]
    """Added to the environment of local judging: the API key given by value."""


def resolve(settings: LengthPenaltyConfig) -> Resolved:
    """Convert the settings to a reward configuration.

    Raises:
        InvalidConfig: a value is wrong, or remote workers would need a key given by value.
    """
    if settings.outer_ratio <= settings.peak_ratio:
        raise InvalidConfig("length_penalty_config.outer_ratio: must be greater than peak_ratio")
    base = load_config(settings.oyer_config)
    broker_url = settings.broker_url or base.broker.url
    if settings.use_async_io and broker_url is not None:
        endpoint = _remote_endpoint(settings, base)
        _refuse_key(settings, base, endpoint)
        _refuse_another_url(settings, base, endpoint)
        mode: Literal["direct", "local", "remote"] = "remote"
        endpoints = {}
    else:
        endpoints = _own_endpoint(settings)
        endpoint = next(iter(endpoints), None)
        mode = "local" if settings.use_async_io else "direct"
    config = validate(
        {
            **base.model_dump(mode="json", exclude={"endpoints", "judges", "length", "reward"}),
            "endpoints": endpoints,
            "judges": [_judge(settings, endpoint)] if endpoint else [],
            "length": [_length(settings)] if settings.enable else [],
            "reward": {"on_missing": _ON_MISSING[settings.on_missing]},
            "broker": {**base.broker.model_dump(), "url": broker_url if mode == "remote" else None},
        },
        source="length_penalty_config",
    )
    if not config.judges and not config.length:
        mode = "direct"
    key = {KEY_VARIABLE: settings.api_key} if settings.api_key else {}
    return Resolved(mode=mode, config=with_deadline(config, settings.timeout_s), environ=key)


_ON_MISSING = {"unjudged": "skip", "group_mean": "group_mean", "raise": "raise"}


def _remote_endpoint(settings: LengthPenaltyConfig, base: RewardConfig) -> str | None:
    """Return the workers' endpoint: the setting, the file's only one, or its first judge's."""
    if settings.endpoint is not None:
        return settings.endpoint
    if len(base.endpoints) == 1:
        return next(iter(base.endpoints))
    if base.judges:
        return base.judges[0].endpoint
    if settings.api_key is None and settings.api_endpoint is None:
        return None
    return _ENDPOINT_NAME


def _refuse_key(settings: LengthPenaltyConfig, base: RewardConfig, endpoint: str | None) -> None:
    if settings.api_key is None:
        return
    known = base.endpoints.get(endpoint or "", EndpointConfig(base_url="http://unknown"))
    variable = shown(known.api_key_env or KEY_VARIABLE)
    raise InvalidConfig(
        "length_penalty_config.api_key: is given by value, but remote workers read keys from their"
        f" own environment only: set {variable} there"
        f" (endpoints.{endpoint}.api_key_env: {variable}), and leave api_key out"
    )


def _refuse_another_url(
    settings: LengthPenaltyConfig, base: RewardConfig, endpoint: str | None
) -> None:
    known = base.endpoints.get(endpoint or "")
    if settings.api_endpoint is None or known is None:
        return
    if _base_url(settings.api_endpoint) not in [server.url for server in known.servers]:
        raise InvalidConfig(
            f"length_penalty_config.api_endpoint: is not a URL of the workers' endpoints.{endpoint};"
            " leave it out, or set `endpoint` to the right one"
        )


def _base_url(api_endpoint: str) -> str:
    return api_endpoint.rstrip("/").removesuffix(_COMPLETIONS)


def _own_endpoint(settings: LengthPenaltyConfig) -> dict[str, Any]:
    if settings.api_endpoint is None:
        if settings.api_key or settings.api_key_env:
            raise InvalidConfig(
                "length_penalty_config.api_endpoint: is missing; set the judge's URL, e.g."
                " https://api.deepseek.com/v1/chat/completions"
            )
        return {}
    return {
        _ENDPOINT_NAME: {
            "base_url": _base_url(settings.api_endpoint),
            "api_key_env": KEY_VARIABLE if settings.api_key else settings.api_key_env,
            "max_in_flight": settings.max_concurrent_requests,
        }
    }


def _judge(settings: LengthPenaltyConfig, endpoint: str) -> dict[str, Any]:
    return {
        "name": JUDGE_NAME,
        "endpoint": endpoint,
        "model": settings.model_name,
        "rubric": settings.rubric,
        "weight": settings.reward_coefficient,
    }


def _length(settings: LengthPenaltyConfig) -> dict[str, Any]:
    return {
        "method": "median_band",
        "peak_ratio": settings.peak_ratio,
        "outer_ratio": settings.outer_ratio,
        "max_penalty": settings.max_penalty,
        "penalty_scale": settings.penalty_scale,
    }
