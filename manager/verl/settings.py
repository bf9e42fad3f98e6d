"""The settings of the replaced `LengthPenaltyRewardManager`, and the reward they amount to."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from oyer.config.loading import load_config, validate
from oyer.config.reward import EndpointConfig, RewardConfig
from oyer.config.variables import shown
from oyer.manager.adapters import within
from oyer.protocol.errors import InvalidConfig

JUDGE_NAME = "quality"
"""Names the judge in rows and terms."""

KEY_VARIABLE = "OYER_JUDGE_API_KEY"
"""Environment variable under which a key given by value reaches workers on this machine."""

_ENDPOINT_NAME = "judge"
_COMPLETIONS = "/chat/completions"


@dataclass(frozen=True, kw_only=True)
class LengthPenaltyConfig:
    """The replaced system's settings by their own names and defaults, and a few of Oyer's."""

    enable: bool = True
    """Whether there is a length penalty."""
    use_async_io: bool = False
    """True: workers judge. False: this process judges, without broker or record, to debug."""
    api_key: str | None = None
    """The key by value: for judging in this process and by workers that it starts."""
    model_name: str = "deepseek-v3"
    """The judge's model."""
    api_endpoint: str | None = None
    """`…/v1/chat/completions` or `…/v1`; without one there is no judge on this machine."""
    max_concurrent_requests: int = 10
    """Calls under way at once on this machine; elsewhere the workers' `max_in_flight` counts."""
    reward_coefficient: float = 1.0
    """What one point of the judge's score adds to the reward."""
    penalty_scale: float = 1.0
    """Multiplies the length penalty."""
    max_penalty: float = 1.0
    """The full length penalty."""
    peak_ratio: float = 0.3
    """Half width of the band without penalty, as a share of the group's median length."""
    outer_ratio: float = 0.5
    """Distance from the median at which the penalty is full, as a share of it."""

    api_key_env: str | None = None
    """Name of the environment variable that holds the key, in place of `api_key`."""
    rubric: str = "tool_call_zh"
    """A built-in rubric's name, a file, or the text itself."""
    on_missing: Literal["unjudged", "group_mean", "raise"] = "unjudged"
    """A row without a score: the reward without its judge, its group's mean score, or raise."""
    oyer_config: str | None = None
    """An `oyer.yaml` for broker, store and endpoints; `OYER_CONFIG` names it as well."""
    broker_url: str | None = None
    """Redis of workers that run elsewhere; over the file's. None of both starts them here."""
    endpoint: str | None = None
    """Which of the remote workers' endpoints judges; needed where they have several."""
    run: str = "verl"
    """The training run that the record files batches under."""
    timeout_s: float = 600.0
    """Longest wait for a batch, in seconds."""

    @classmethod
    def of(cls, raw: Any) -> "LengthPenaltyConfig":
        """Read settings from a mapping, or from any object's attributes, as the original did.

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
    """Where a batch is scored, and by what."""

    mode: Literal["direct", "local", "remote"]
    config: RewardConfig
    environ: Mapping[str, str]
    """What is laid over the environment where this machine judges: the key by value."""


def resolve(settings: LengthPenaltyConfig) -> Resolved:
    """Turn the settings into a reward configuration.

    Raises:
        InvalidConfig: a value is wrong, or a key by value would have to reach remote workers.
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
    return Resolved(mode=mode, config=within(config, settings.timeout_s), environ=key)


_ON_MISSING = {"unjudged": "skip", "group_mean": "group_mean", "raise": "raise"}


def _remote_endpoint(settings: LengthPenaltyConfig, base: RewardConfig) -> str | None:
    """Name the workers' endpoint: as told, as the file's only one, or the file's first judge's."""
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
        "length_penalty_config.api_key: is given by value, and the workers behind the broker read"
        f" keys from their own environment only: set {variable} there"
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
            f"length_penalty_config.api_endpoint: is not where endpoints.{endpoint} of the workers"
            " is; leave it out, or name with `endpoint` the one that is meant"
        )


def _base_url(api_endpoint: str) -> str:
    return api_endpoint.rstrip("/").removesuffix(_COMPLETIONS)


def _own_endpoint(settings: LengthPenaltyConfig) -> dict[str, Any]:
    if settings.api_endpoint is None:
        if settings.api_key or settings.api_key_env:
            raise InvalidConfig(
                "length_penalty_config.api_endpoint: is missing; give the judge's URL, e.g."
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
