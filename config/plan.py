"""Reads the plan of a batch, the trainer's part of the configuration, on a worker."""

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
        MessageRefused: this worker cannot validate the plan, e.g. as it is of another version.
    """
    raw: dict[str, Any] = manifest.plan
    try:
        config = RewardConfig.model_validate(raw, context=SENT)
    except ValidationError as error:
        raise MessageRefused(
            f"the plan of batch {manifest.batch_id} cannot be read by this worker"
            f" ({explain(error)}); run the same release of Oyer on the trainer and the workers"
        ) from error
    return Plan(
        judges=config.judges,
        length=config.length,
        reward=config.reward,
        budget=config.budget,
        reuse=config.reuse,
        tokenizer=config.tokenizer,
    )
