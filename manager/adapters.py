"""What the trainers' adapters share: what a configuration takes of a row, and whether it fits."""

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from oyer.config.reward import EndpointConfig, RewardConfig
from oyer.manager import validation
from oyer.manager.client import RewardManager
from oyer.manager.requirements import compares
from oyer.manager.score import Score
from oyer.manager.streaming.identity import RunOptions
from oyer.protocol.errors import InvalidConfig, InvalidRollout, JudgeOutage
from oyer.protocol.rollout import Rollout
from oyer.protocol.status import NOT_CALLED, Status


@dataclass(frozen=True)
class Wanted:
    """What the length methods of a configuration read beside prompt, response and length."""

    token_ids: bool
    """Whether a method looks at the response's token ids."""
    metadata: frozenset[str]
    """The keys of a rollout's metadata that are read."""

    @classmethod
    def by(cls, config: RewardConfig) -> Self:
        """List what a configuration reads."""
        return cls(
            token_ids=any(item.takes_token_ids for item in config.length),
            metadata=frozenset(
                key for item in config.length for key in item.metadata_keys.values()
            ),
        )

    def metadata_of(self, columns: Mapping[str, Any]) -> dict[str, Any]:
        """Take what is read out of a row's further columns, as plain values."""
        found = {key: columns[key] for key in self.metadata if key in columns}
        return {k: v.item() if isinstance(v, np.generic) else v for k, v in found.items()}


OUTAGE_WINDOW = 64
"""The rollouts to be judged among which `max_failed_fraction` is counted where they come one by one:
a batch may then hold a single one."""


class Outages:
    """The outage breaker over the latest rollouts of a process that were to be judged."""

    def __init__(self, max_failed_fraction: float, window: int = OUTAGE_WINDOW) -> None:
        self._limit = max_failed_fraction * window
        self._failed: deque[bool] = deque(maxlen=window)

    def count(self, scores: Iterable[Score]) -> None:
        """Count scores in.

        Raises:
            JudgeOutage: too many of the latest have failed.
        """
        for score in scores:
            if score.status in NOT_CALLED:
                continue
            self._failed.append(score.status != Status.SCORED)
            failed = sum(list(self._failed))
            if self._failed[-1] and failed > self._limit:
                raise JudgeOutage(
                    f"{failed} of the latest {self._failed.maxlen} rollouts to be judged have no score"
                    f" (the last: {score.status}: {score.error}); more than reward.max_failed_fraction allows"
                )


def one_by_one(
    config: RewardConfig, timeout_s: float | None = None
) -> tuple[RewardConfig, Outages]:
    """Move the outage breaker from batches to an adapter whose rollouts come one by one.

    Args:
        timeout_s: how long it waits for each, where it does not come again for one that is late.
    """
    rules = config.reward.model_copy(update={"max_failed_fraction": 1.0})
    outages = Outages(config.reward.max_failed_fraction)
    config = config.model_copy(update={"reward": rules})
    return config if timeout_s is None else within(config, timeout_s), outages


def filed_under(run: str | None, default: str, manager: RewardManager) -> RunOptions:
    """Say where a trainer's rollouts belong.

    Args:
        run: what the user named; two trainings that share groups would have to name the same.
        default: what the record files the rollouts under without a name. It does not name one
            training, so the manager's training keeps their groups apart.
    """
    return {"run": default, "training": manager.training} if run is None else {"run": run}


def number_of(score: Any) -> Any:
    """Give a verifier's score as a number, where it is one by another type: a bool, a tensor."""
    try:
        return None if score is None else float(score)
    except (TypeError, ValueError):
        return score  # and be told by the validation what it is


def within(config: RewardConfig, timeout_s: float) -> RewardConfig:
    """Let no call begin so late that a batch's other scores would be lost with it.

    A trainer that waits `timeout_s` for a batch then gets what is there. The calls under way have
    their endpoint's `timeout_s`, which is kept free for them, half of the time at most.
    """
    default_s: float = EndpointConfig.model_fields["timeout_s"].default
    last_s = max((one.timeout_s for one in config.endpoints.values()), default=default_s)
    deadline_s = min(config.deadline_s, max(timeout_s - last_s, timeout_s / 2))
    return config.model_copy(update={"deadline_s": deadline_s})


def check_fits(
    config: RewardConfig, *, who: str, base_score: bool, group_size: int | None, how: str
) -> None:
    """Refuse a configuration under which no rollout of a trainer's could be scored.

    Args:
        who: the trainer, whose protocol hands over prompt, response and label.
        base_score: whether a base score is computed here.
        group_size: samples of one prompt, which arrive one by one.
        how: names the option that says `group_size`.

    Raises:
        InvalidConfig: a length method needs what the protocol has not; the message names the fix.
    """
    sample = Rollout(prompt="p", response="r", group_id="g", base_score=1.0 if base_score else None)
    try:
        validation.check([sample], config)
    except InvalidRollout as error:
        what = str(error).removeprefix("rollouts[0].")
        raise InvalidConfig(f"length: {who} hands over text only, and {what}") from error
    if compares(config) and group_size is None:
        raise InvalidConfig(
            f"length: {who} hands over single rollouts, and the configuration compares those of one"
            f" prompt; say by {how} how many they are, or choose a method that compares none"
        )
