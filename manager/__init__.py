"""The trainer side: submit rollouts, keep computing, collect rewards. Fast to import."""

from oyer.config.reward import EndpointConfig, JudgeConfig, LengthConfig, RewardConfig, RewardRules
from oyer.manager.batch import BatchUsage, RewardBatch
from oyer.manager.client import RewardManager
from oyer.manager.future import RewardFuture
from oyer.protocol.errors import (
    BackendUnavailable,
    BatchCancelled,
    BatchFailed,
    InvalidConfig,
    InvalidInput,
    InvalidRollout,
    JudgeOutage,
    MissingScores,
    OyerError,
)
from oyer.protocol.rollout import Rollout

__all__ = [
    "BackendUnavailable",
    "BatchCancelled",
    "BatchFailed",
    "BatchUsage",
    "EndpointConfig",
    "InvalidConfig",
    "InvalidInput",
    "InvalidRollout",
    "JudgeConfig",
    "JudgeOutage",
    "LengthConfig",
    "MissingScores",
    "OyerError",
    "RewardBatch",
    "RewardConfig",
    "RewardFuture",
    "RewardManager",
    "RewardRules",
    "Rollout",
]
