"""What a missing score becomes where TRL cannot mask its row."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from oyer.manager.score import Score
from oyer.manager.stand_ins import group_means
from oyer.manager.trl.groups import generations_of, trainer_of


def is_masked(scorer: Any, columns: Mapping[str, Any]) -> bool:
    """Whether TRL masks a row for which a scorer's functions return None.

    It masks a row if all functions return None. Else None counts as 0 in the sum of the rewards; under
    `normalize_then_sum` None is left out after the normalisation, which is neutral.
    """
    trainer = trainer_of(columns)
    functions = getattr(trainer, "reward_funcs", None) or ()
    return (
        all(getattr(one, "scorer", None) is scorer for one in functions)
        or getattr(trainer, "masks_rows_without_score", False)
        or getattr(trainer, "multi_objective_aggregation", None) == "normalize_then_sum"
    )


def neutral_rewards(scores: Sequence[Score], columns: Mapping[str, Any]) -> list[float | None]:
    """Return the rewards, with the mean of the group's rewards where there is none.

    The rows of a group without any reward are all None. Of a group that is spread over ranks, the
    rows of this rank are averaged.
    """
    trainer = trainer_of(columns)
    size = generations_of(trainer)
    rank = getattr(getattr(trainer, "accelerator", None), "process_index", 0)
    groups = [(rank * len(scores) + i) // size for i in range(len(scores))]
    rewards = [one.reward if one.trainable else math.nan for one in scores]
    means = group_means(groups, rewards)
    return [
        next((number for number in pair if math.isfinite(number)), None)
        for pair in zip(rewards, means, strict=True)
    ]
