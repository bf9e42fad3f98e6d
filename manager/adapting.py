"""What the trainers' adapters share: what a configuration takes of a row, and whether it fits."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from oyer.manager import validation
from oyer.tasks.config import RewardConfig
from oyer.tasks.errors import InvalidConfig, InvalidRollout
from oyer.tasks.payloads import Rollout


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


def compares(config: RewardConfig) -> bool:
    """Whether the rollouts of one prompt are compared: by a length method, or by `group_mean`."""
    needed = any("group_ids" in item.needs for item in config.length)
    return needed or config.reward.on_missing == "group_mean"


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
