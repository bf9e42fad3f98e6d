"""All exception classes of Oyer.

OyerError
├── InvalidInput (also ValueError)   the input is invalid; nothing was submitted
│   ├── InvalidConfig                a configuration file or value
│   ├── InvalidRollout               a row of a batch
│   ├── InvalidLengthCall            a length method whose needs are not met
│   └── MessageRefused               a task message that this worker cannot read
├── BackendUnavailable               broker, store or workers cannot be reached
│   ├── MissingExtra                 a package of an optional extra is not installed
│   └── Overloaded                   more than `broker.max_backlog_bytes` is in flight
├── BatchFailed                      the batch failed
│   ├── BatchCancelled               the batch was cancelled
│   └── BatchLost                    neither Redis nor the database holds enough of it
└── MissingScores                    rollouts without a score, under `on_missing: raise`
    └── JudgeOutage                  more rollouts without a score than `max_failed_fraction`
"""

from typing import Any


class OyerError(Exception):
    """Base class of all errors of Oyer."""


class InvalidInput(OyerError, ValueError):
    """The input is invalid; nothing was submitted."""


class InvalidConfig(InvalidInput):
    """A configuration file or value is invalid; the message names the key and the fix."""


class InvalidRollout(InvalidInput):
    """A row of a batch cannot be scored; the message names the row, the field and the fix."""


class InvalidLengthCall(InvalidInput):
    """A required input of a length method is missing; the message names it."""


class MessageRefused(InvalidInput):
    """A task message was written by another version or another program."""


class BackendUnavailable(OyerError):
    """The broker, the store or the workers cannot be reached."""


class MissingExtra(BackendUnavailable):
    """A package of an optional extra is not installed; the message says what to install."""


class Overloaded(BackendUnavailable):
    """More than `broker.max_backlog_bytes` is in flight; nothing was submitted, retry later."""


class BatchFailed(OyerError):
    """The batch failed; the message holds the first cause."""


class BatchCancelled(BatchFailed):
    """The batch was cancelled before it ended."""


class BatchLost(BatchFailed):
    """Neither Redis nor the database holds enough of the batch to finish it; submit it again."""


class MissingScores(OyerError):
    """Rollouts have no score and the failure policy is `raise`.

    Attributes:
        batch: the partial `RewardBatch`; a missing reward is NaN.
    """

    def __init__(self, message: str, batch: Any = None) -> None:
        super().__init__(message)
        self.batch = batch


class JudgeOutage(MissingScores):
    """More rollouts have no score than `reward.max_failed_fraction` allows."""
