"""Every error Oyer raises on purpose.

OyerError
├── InvalidInput (also ValueError)   what was handed over cannot be used; nothing was submitted
│   ├── InvalidConfig                a configuration file or value
│   ├── InvalidRollout               a row of a batch
│   ├── InvalidLengthCall            a length method whose needs are not met
│   └── MessageRefused               a task message that this worker cannot read
├── BackendUnavailable               broker, store or workers cannot be reached
│   └── Overloaded                   more is under way than `broker.max_backlog_bytes`
├── BatchFailed                      the backend gave the batch up
│   ├── BatchCancelled               the batch was cancelled
│   └── BatchLost                    neither Redis nor the record holds enough of it
└── MissingScores                    rollouts without a score, under `on_missing: raise`
    └── JudgeOutage                  more rollouts without a score than `max_failed_fraction`
"""

from typing import Any


class OyerError(Exception):
    """Root of every error that Oyer raises on purpose."""


class InvalidInput(OyerError, ValueError):
    """What was handed over cannot be used; nothing was submitted."""


class InvalidConfig(InvalidInput):
    """A configuration file or value cannot be used; the message names the key and the fix."""


class InvalidRollout(InvalidInput):
    """A row of a batch cannot be scored; the message names the row, the field and the fix."""


class InvalidLengthCall(InvalidInput):
    """A length method was called without what it needs; the message names what is missing."""


class MessageRefused(InvalidInput):
    """A task message was written by another version or another program."""


class BackendUnavailable(OyerError):
    """The broker, the store or the workers cannot be reached."""


class Overloaded(BackendUnavailable):
    """More is under way than the backend is to hold; nothing was submitted, try again later."""


class BatchFailed(OyerError):
    """The backend gave the batch up; the message holds the first cause."""


class BatchCancelled(BatchFailed):
    """The batch was cancelled before it ended."""


class BatchLost(BatchFailed):
    """Neither Redis nor the record holds enough of the batch to finish it; submit it anew."""


class MissingScores(OyerError):
    """Rollouts are without a score and the failure policy is `raise`.

    Attributes:
        batch: the partial `RewardBatch`, NaN where there is no reward.
    """

    def __init__(self, message: str, batch: Any = None) -> None:
        super().__init__(message)
        self.batch = batch


class JudgeOutage(MissingScores):
    """More of the batch is without a score than `reward.max_failed_fraction` allows."""
