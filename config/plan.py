"""Reads the plan of a batch, the trainer's part of the configuration, on a worker."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import ValidationError

from oyer.config.explaining import explain
from oyer.config.reward import (
    SENT,
    Budget,
    JudgeConfig,
    LengthConfig,
    RewardConfig,
    RewardRules,
)
from oyer.protocol.batch import Manifest
from oyer.protocol.errors import MessageRefused


@dataclass(frozen=True)
class Plan:
    """The trainer's configuration of judges, length methods and reward rules."""

    judges: tuple[JudgeConfig, ...]
    length: tuple[LengthConfig, ...]
    reward: RewardRules
    budget: Budget | None
    reuse: Literal["run", "store", "off"]
    tokenizer: str | None


def read_plan(manifest: Manifest) -> Plan:
    """Read a manifest's plan.

    Raises:
        MessageRefused: see `sent_config`.
    """
    config = sent_config(manifest.plan, manifest.batch_id)
    return Plan(
        judges=config.judges,
        length=config.length,
        reward=config.reward,
        budget=config.budget,
        reuse=config.reuse,
        tokenizer=config.tokenizer,
    )


def sent_config(plan: Mapping[str, Any], batch_id: str) -> RewardConfig:
    """Return the configuration that a trainer sent with a batch.

    Raises:
        MessageRefused: this worker cannot validate the plan, e.g. as it is of another version.
    """
    try:
        return RewardConfig.model_validate(plan, context=SENT)
    except ValidationError as error:
        raise MessageRefused(
            f"the plan of batch {batch_id} cannot be read by this worker"
            f" ({explain(error)}); run the same release of Oyer on the trainer and the workers"
        ) from error
