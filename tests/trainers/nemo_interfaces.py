"""The interfaces of NeMo-Gym 07d6b0d and NeMo-RL 7ea279a (2026-08-22), copied.

Neither is on PyPI for this Python (NeMo-Gym needs 3.13). The names, fields and signatures are theirs;
`judge_failsafe` and `calculate_rewards` are shortened to what a resources server and an environment
meet.
"""

import abc
import functools
import sys
from types import ModuleType
from typing import Any, Generic, NamedTuple, TypeVar

import pytest
import torch
from fastapi import FastAPI
from fastapi.encoders import jsonable_encoder
from fastapi.responses import JSONResponse
from openai.types.responses import Response
from pydantic import BaseModel

MetadataT = TypeVar("MetadataT")


class JudgeError(Exception):
    """nemo_gym/judge.py: a judge call failed."""


def judge_failsafe(verify_fn: Any) -> Any:
    """nemo_gym/judge.py: answer a JudgeError with a row for the failures sidecar."""

    @functools.wraps(verify_fn)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        try:
            return await verify_fn(*args, **kwargs)
        except JudgeError as e:
            body = kwargs.get("body") or args[0]
            data = body.model_dump() | {
                "reward": 0.0,
                "_ng_failure_class": "judge_failed",
                "_ng_failure_judge_error": str(e),
            }
            return JSONResponse(content=jsonable_encoder(data))

    return wrapper


class CreateParams(BaseModel):
    """Of NeMoGymResponseCreateParamsNonStreaming, the fields that the example reads."""

    input: Any
    tools: list[Any] | None = None


class BaseVerifyRequest(BaseModel):
    responses_create_params: CreateParams
    response: Response


class BaseVerifyResponse(BaseVerifyRequest):
    reward: float


class BaseMultiRewardVerifyResponse(BaseVerifyResponse):
    reward_components: dict[str, float]


class BaseResourcesServerConfig(BaseModel):
    name: str = "oyer"


class SimpleResourcesServer(BaseModel):
    """nemo_gym/base_resources_server.py: a Pydantic model whose `verify` is a route."""

    config: BaseResourcesServerConfig
    server_client: Any = None

    def setup_webserver(self) -> FastAPI:
        app = FastAPI()
        app.post("/verify")(judge_failsafe(self.verify))
        return app

    @abc.abstractmethod
    async def verify(self, body: BaseVerifyRequest) -> BaseVerifyResponse: ...


class EnvironmentReturn(NamedTuple, Generic[MetadataT]):
    """nemo_rl/environments/interfaces.py."""

    observations: list[dict[str, str]]
    metadata: list[Any]
    next_stop_strings: list[list[str] | None] | list[None]
    rewards: Any
    terminateds: torch.Tensor
    answers: list[str | None] | None


class EnvironmentInterface(abc.ABC, Generic[MetadataT]):
    """nemo_rl/environments/interfaces.py."""

    @abc.abstractmethod
    def step(self, message_log_batch: list[Any], metadata: list[Any]) -> EnvironmentReturn[Any]: ...

    @abc.abstractmethod
    def global_post_process_and_metrics(self, batch: Any) -> tuple[Any, dict[str, Any]]: ...


def gdpo_advantages(components: dict[str, torch.Tensor], group_size: int) -> torch.Tensor:
    """GDPOAdvantageEstimator.compute_advantage: each component by prompt, then their sum."""
    if len(components) < 2:
        raise ValueError("GDPO requires multiple reward components")
    parts = []
    for name in sorted(components):
        groups = components[name].view(-1, group_size)
        centred = groups - groups.mean(dim=1, keepdim=True)
        std = groups.std(dim=1, keepdim=True)
        parts.append(torch.where(std > 0, centred / (std + 1e-6), centred).flatten())
    advantages = torch.stack(parts).sum(dim=0)
    std = advantages.std()
    return (advantages - advantages.mean()) / std if std > 0 else advantages - advantages.mean()


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the copies importable under the trainers' names."""
    here = sys.modules[__name__]
    for name, names in (
        ("nemo_gym", ()),
        ("nemo_gym.judge", ("JudgeError",)),
        (
            "nemo_gym.base_resources_server",
            (
                "BaseMultiRewardVerifyResponse",
                "BaseResourcesServerConfig",
                "BaseVerifyRequest",
                "SimpleResourcesServer",
            ),
        ),
        ("nemo_rl", ()),
        ("nemo_rl.environments", ()),
        ("nemo_rl.environments.interfaces", ("EnvironmentInterface", "EnvironmentReturn")),
    ):
        module = ModuleType(name)
        for one in names:
            setattr(module, one, getattr(here, one))
        monkeypatch.setitem(sys.modules, name, module)
