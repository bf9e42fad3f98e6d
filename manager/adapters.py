"""Shared parts of the trainer adapters."""

import itertools
import json
import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from oyer.config.length import term_names
from oyer.config.reward import EndpointConfig, RewardConfig
from oyer.manager import validation
from oyer.manager.client import RewardManager
from oyer.manager.requirements import compares, scored_metadata
from oyer.manager.score import Score
from oyer.manager.streaming.identity import RunOptions
from oyer.protocol.content import as_messages, plain_json
from oyer.protocol.errors import InvalidConfig, InvalidRollout, JudgeOutage
from oyer.protocol.rollout import Message, Rollout
from oyer.protocol.status import NOT_CALLED, Status


@dataclass(frozen=True)
class NeededFields:
    """Rollout fields that a configuration reads besides prompt, response and token count."""

    token_ids: bool
    """Whether a method reads the response's token ids."""
    metadata: frozenset[str]
    """Keys of a rollout's metadata that a method, a judge's criteria or a rubric reads."""
    truncated: bool = False
    """Whether a method or a rule reads whether generation hit the length limit."""
    images: bool = False
    """Whether a judge sends images or refuses them; else adapters may make them placeholders."""

    @classmethod
    def of(cls, config: RewardConfig) -> Self:
        """Collect the fields that a configuration's judges and length methods read."""
        return cls(
            token_ids=any(item.takes_token_ids for item in config.length),
            metadata=frozenset(scored_metadata(config)),
            truncated=any(item.takes_truncated for item in config.length),
            images=any(judge.images != "placeholder" for judge in config.judges),
        )

    def metadata_of(self, columns: Mapping[str, Any]) -> dict[str, Any]:
        """Return the metadata values found in a row's columns, as JSON values of any size.

        Args:
            columns: as for `row_metadata`.
        """
        places = [columns, *(one for one in columns.values() if isinstance(one, Mapping))]
        found: dict[str, Any] = {}
        for key in self.metadata:
            values = (place.get(key) for place in places)
            value = next((one for one in values if one is not None), None)
            if value is not None:
                found[key] = _json_value(value)
        return found


def _json_value(value: Any) -> Any:
    value = value.item() if isinstance(value, np.generic) else value
    # Data sets hold lists of mappings as arrays, and mappings with Arrow's types.
    return value if isinstance(value, (str, int, float)) else json.loads(plain_json(value))


MAX_ROW_VALUES, MAX_ROW_CHARS = 32, 200
"""Most values of a data set's row that are kept as metadata, and longest text among them."""


def row_metadata(columns: Mapping[str, Any], config: RewardConfig | None = None) -> dict[str, Any]:
    """Return the small values of a data set's row, for `Rollout.metadata`: ids, data source, …

    Args:
        columns: the row's columns; short texts, numbers and flags are kept, also those inside a
            mapping such as verl's `extra_info`, under their own key.
        config: what its judges and length methods read is kept whatever its size.
    """
    found: dict[str, Any] = {}
    inner = [value for value in columns.values() if isinstance(value, Mapping)]
    for key, value in itertools.chain(columns.items(), *(one.items() for one in inner)):
        scalar = value.item() if isinstance(value, np.generic) else value
        if len(found) < MAX_ROW_VALUES and key not in found and _is_small(key, scalar):
            found[str(key)] = scalar
    return found if config is None else found | NeededFields.of(config).metadata_of(columns)


def _is_small(key: Any, value: Any) -> bool:
    if not validation.is_text(key) or len(key) > MAX_ROW_CHARS:
        return False
    if isinstance(value, str):
        return len(value) <= MAX_ROW_CHARS and validation.is_text(value)
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, bool) or (isinstance(value, int) and abs(value) < 2**63)


def component_names(config: RewardConfig) -> list[str]:
    """Return the names of all components of a configuration: judges and their criteria, then length terms.

    Criteria that rollouts bring along are not among them, since they differ between prompts.
    """
    judges = [
        name
        for judge in config.judges
        for name in (judge.name, *(f"{judge.name}/{one.name}" for one in judge.own_criteria))
    ]
    return judges + term_names(config.length)


def scores_turns(config: RewardConfig) -> bool:
    """Whether a judge scores each turn, so that `Score.turn_scores` is not empty."""
    return any(judge.view == "each_turn" for judge in config.judges)


def component_columns(
    scores: Sequence[Score], prefix: str = "oyer/", names: Sequence[str] = ()
) -> dict[str, list[float]]:
    """Return each component as a column without NaN, and a column that says where it is present.

    A missing value is replaced by the mean of the rollout's group, which changes no ranking in it,
    or by 0.0 if the whole group lacks it; `<prefix><name>_present` is then 0.0, else 1.0.

    Args:
        scores: `[N]`.
        prefix: of all keys.
        names: components that must have columns even if no score has them (`component_names`).
    """
    found = dict.fromkeys(itertools.chain(names, *(score.components for score in scores)))
    # A trainer needs the same columns for every row, whatever criteria its rollout brought along.
    found = {name: None for name in found if "/" not in name or name in names}
    columns: dict[str, list[float]] = {}
    for name in found:
        values = [score.components.get(name, math.nan) for score in scores]
        means = [score.component_means.get(name, math.nan) for score in scores]
        columns[prefix + name] = [
            next((number for number in pair if math.isfinite(number)), 0.0)
            for pair in zip(values, means, strict=True)
        ]
        columns[f"{prefix}{name}_present"] = [float(math.isfinite(value)) for value in values]
    return columns


OUTAGE_WINDOW = 64
"""Number of latest judged rollouts over which `max_failed_fraction` is computed when rollouts arrive
one by one, because a batch may then have a single rollout."""


class OutageBreaker:
    """Raises when too many of a process's latest rollouts that needed a judge have no score."""

    def __init__(self, max_failed_fraction: float, window: int = OUTAGE_WINDOW) -> None:
        self._limit, self._window = max_failed_fraction, window
        self._failed: deque[bool] = deque(maxlen=window)

    def count(self, scores: Iterable[Score]) -> None:
        """Add scores to the window.

        Raises:
            JudgeOutage: the failed fraction exceeds the limit.
        """
        for score in scores:
            if score.status in NOT_CALLED:
                continue
            self._failed.append(score.status != Status.SCORED)
            failed = sum(list(self._failed))
            if self._failed[-1] and failed / self._window > self._limit:
                raise JudgeOutage(
                    f"{failed} of the latest {self._window} rollouts to be judged have no score"
                    f" (the last: {score.status}: {score.error}); more than reward.max_failed_fraction allows"
                )


def one_by_one(
    config: RewardConfig, timeout_s: float | None = None
) -> tuple[RewardConfig, OutageBreaker]:
    """Move the outage breaker from batches to an adapter whose rollouts come one by one.

    Args:
        timeout_s: how long the adapter waits for a rollout, if it does not ask for a late one again.
    """
    rules = config.reward.model_copy(update={"max_failed_fraction": 1.0})
    outages = OutageBreaker(config.reward.max_failed_fraction)
    config = config.model_copy(update={"reward": rules})
    return config if timeout_s is None else with_deadline(config, timeout_s), outages


def filed_under(run: str | None, default: str, manager: RewardManager) -> RunOptions:
    """Return the run of a trainer's rollouts and the training that scopes their groups.

    Args:
        run: the user's name for the run; processes that name the same run share groups.
        default: the run on record if the user named none. Several trainings may use it, so the
            manager's training id scopes the groups.
    """
    return {"run": default, "training": manager.training} if run is None else {"run": run}


def response_of(messages: Any, *, images: bool = True) -> str | list[Message]:
    """Convert a trajectory's messages after the prompt; a single plain reply becomes text.

    The judge then sees a single turn as it sees the text of any other trainer.

    Args:
        messages: as `protocol.content.as_messages` takes them.
        images: see there.
    """
    response = as_messages(messages, images=images)
    if not response:
        return ""
    if len(response) == 1 and isinstance(response[0], dict):
        message = {key: value for key, value in response[0].items() if value is not None}
        content = message.get("content")
        if message.keys() == {"role", "content"} and message["role"] == "assistant":
            return content if isinstance(content, str) else response
    return response


def as_number(score: Any) -> Any:
    """Convert a verifier's score, e.g. a bool or a tensor, to a float."""
    try:
        return None if score is None else float(score)
    except (TypeError, ValueError):
        return score  # validation reports it


def with_deadline(config: RewardConfig, timeout_s: float) -> RewardConfig:
    """Return the configuration with a deadline that fits a trainer's wait of `timeout_s`.

    No call starts when less than its endpoint's `timeout_s` is left (or less than half of the wait),
    so that one late call does not cost the batch its other scores.
    """
    default_s: float = EndpointConfig.model_fields["timeout_s"].default
    last_s = max((one.timeout_s for one in config.endpoints.values()), default=default_s)
    deadline_s = min(config.deadline_s, max(timeout_s - last_s, timeout_s / 2))
    return config.model_copy(update={"deadline_s": deadline_s})


def check_fits(
    config: RewardConfig,
    *,
    who: str,
    base_score: bool,
    group_size: int | None,
    how: str,
    truncated: bool = True,
    texts_only: bool = True,
) -> None:
    """Refuse a configuration under which none of the trainer's rollouts could be scored.

    Args:
        who: the trainer, whose protocol has prompt, response and label only.
        base_score: whether the adapter computes a base score.
        group_size: samples of one prompt, if known.
        how: name of the option that sets `group_size`.
        truncated: whether the protocol says which rollouts hit the length limit.
        texts_only: False if the trainer sent token counts, token ids or metadata as well.

    Raises:
        InvalidConfig: a length method needs a field that the protocol lacks.
    """
    if not truncated:
        check_reads_no_truncation(config, who)
    sample = Rollout(prompt="p", response="r", group_id="g", base_score=1.0 if base_score else None)
    try:
        if texts_only:
            validation.check([sample], config)
    except InvalidRollout as error:
        what = str(error).removeprefix("rollouts[0].")
        raise InvalidConfig(f"length: {who} sends text only, and {what}") from error
    if compares(config) and group_size is None:
        raise InvalidConfig(
            f"length: {who} sends single rollouts, and the configuration compares those of one"
            f" prompt; set {how} to their number, or choose a method that does not compare"
        )


def check_reads_no_truncation(config: RewardConfig, who: str) -> None:
    """Refuse a configuration that reads what a trainer does not say: which rollouts were cut.

    Raises:
        InvalidConfig: names the length method and the fix.
    """
    for item in config.length:
        if item.takes_truncated:
            raise InvalidConfig(
                f"length: {who} does not say which rollouts hit the length limit, and {item.method}"
                " reads it; set `truncated: as_is` (sigmoid_length: `check_eos: false`), or choose"
                " another method"
            )
