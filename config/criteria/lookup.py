"""Finds the criteria that a judge applies to a rollout; pure."""

from collections.abc import Mapping
from typing import Any

from oyer.config.criteria.criterion import Criterion
from oyer.config.criteria.formats import InvalidCriteria, read_criteria
from oyer.config.judge import JudgeConfig


def criteria_for(judge: JudgeConfig, metadata: Mapping[str, Any]) -> tuple[Criterion, ...]:
    """Return a rollout's own criteria, else the judge's.

    Raises:
        InvalidCriteria: the rollout's own cannot be used, or there are none at all. The message starts
            with the place, from `metadata` on.
    """
    path = judge.criteria_from
    if path is None:
        return judge.own_criteria
    raw: Any = metadata
    for key in path.split(".")[1:]:
        raw = raw.get(key) if isinstance(raw, Mapping) else None
    if raw is None:
        if judge.own_criteria:
            return judge.own_criteria
        raise InvalidCriteria(
            f"{path}: is missing, and judge {judge.name!r} has no criteria of its own; give the"
            " rollout's criteria, or the judge `criteria`"
        )
    try:
        return read_criteria(raw, judge.combine_criteria)
    except InvalidCriteria as error:
        raise InvalidCriteria(f"{path}{error}") from error
