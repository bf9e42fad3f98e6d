"""The fields of a rollout that the length methods of a configuration require; pure."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from numbers import Integral, Real

import numpy as np

from oyer.config import rubric as rubrics
from oyer.config.criteria.formats import InvalidCriteria
from oyer.config.criteria.lookup import criteria_for
from oyer.config.length import COUNTS, FLAGS, SPANS
from oyer.config.reward import JudgeConfig, LengthConfig, RewardConfig
from oyer.config.rubrics.metadata import MissingMetadata, metadata_texts
from oyer.protocol import token_ids
from oyer.protocol.images import unusable_image
from oyer.protocol.rollout import Rollout

Need = Callable[[Rollout], str | None]
"""Returns the field of a rollout that fails the requirement, what is wrong and the fix; or None."""


_MAX_NUMBER = 2**53
"""Largest magnitude up to which every integer is exact in float64."""

_SHOWN_CHARS = 80
"""How much of a value an error message shows, in characters."""


def shown(value: object) -> str:
    """Return a value's `repr` for an error message: shortened, and safe if `repr` itself fails."""
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - callers pass arbitrary objects, e.g. integers too long to
        # print; the message is about the field.
        text = f"a {type(value).__name__} that cannot be shown"
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}…"


def compares(config: RewardConfig) -> bool:
    """Whether a length method, a judge or `on_missing: group_mean` compares rollouts of one prompt."""
    return bool(needs_groups(config)) or config.reward.on_missing == "group_mean"


def needs_groups(config: RewardConfig) -> str | None:
    """Return which part of a configuration needs to know each rollout's group, or None."""
    for item in config.length:
        if "group_ids" in item.needs:
            return f"length method {item.method}"
    for judge in config.judges:
        if judge.kind == "group":
            return f"group judge {judge.name!r}"
    return None


def without_groups(config: RewardConfig) -> RewardConfig:
    """Return a configuration without what compares rollouts: length methods and group judges."""
    judges = tuple(judge for judge in config.judges if judge.kind == "pointwise")
    needed = config.reward.min_valid_judges
    if needed is not None:
        needed = min(needed, len(judges)) or None
    reward = config.reward.model_copy(update={"min_valid_judges": needed})
    return config.model_copy(update={"length": (), "judges": judges, "reward": reward})


def scored_metadata(config: RewardConfig) -> list[str]:
    """Return the keys of a rollout's metadata that judges are shown or length methods read."""
    places = [judge.criteria_from for judge in config.judges if judge.criteria_from]
    for judge in config.judges:
        places += rubrics.parse(judge.rubric).metadata_places
    keys = {place.removeprefix("metadata.").partition(".")[0] for place in places}
    return sorted(keys.union(*(item.metadata_keys.values() for item in config.length)))


def needs_of(config: RewardConfig) -> list[Need]:
    """List the requirements of judges, length methods and `zero_unless` on each rollout."""
    needs: list[Need] = [partial(_criteria, judge=j) for j in config.judges if j.criteria_from]
    for judge in config.judges:
        if places := rubrics.parse(judge.rubric).metadata_places:
            needs.append(partial(_shown_metadata, places=places))
    if any(judge.images != "placeholder" for judge in config.judges):
        needs.append(_usable_images)
    if config.reward.zero_unless == "correct":
        needs.append(partial(_correct, who="reward.zero_unless"))
    for judge in config.judges:
        if judge.kind == "group":
            needs.append(partial(_group_id, who=f"group judge {judge.name!r}"))
    for item in config.length:
        needs += _of_method(item, config)
    return needs


def _of_method(item: LengthConfig, config: RewardConfig) -> Iterator[Need]:
    who = f"length method {item.method}"
    needs = item.needs
    if "group_ids" in needs:
        yield partial(_group_id, who=who)
    if "correct" in needs and item.condition is None:
        yield partial(_correct, who=who)
    compared = {key for key, source in item.scores.items() if source == "base_score"}
    if "correct" in compared or ("quality" in compared and item.needs_score):
        yield partial(_base_score, who=who, positive="quality>=0" in needs)
    if item.takes_token_ids:
        yield partial(_token_ids, who=who, required="token_ids" in needs)
    for name, key in item.metadata_keys.items():
        yield partial(_metadata, who=who, name=name, key=key)
    if item.unit == "tokens" and config.tokenizer is None:
        if item.spans:
            yield partial(_split, who=who, by_ids=bool(item.think.close_ids))
        elif "lengths" in needs:
            yield _response_tokens


def _usable_images(rollout: Rollout) -> str | None:
    """Refuse an image that cannot be sent, since the judge would score the rollout without it."""
    for field in ("prompt", "response"):
        place = unusable_image(getattr(rollout, field))
        if place is not None:
            return (
                f"{field}{place}: is an image without a URL that a judge can be sent; give https://…,"
                " data:image/…;base64,… or the bytes by oyer.protocol.content.as_messages, or set the"
                " judges' `images` to `placeholder`"
            )
    return None


def _criteria(rollout: Rollout, judge: JudgeConfig) -> str | None:
    try:
        criteria_for(judge, rollout.metadata)
    except InvalidCriteria as error:
        return str(error)
    return None


def _shown_metadata(rollout: Rollout, places: Sequence[str]) -> str | None:
    try:
        metadata_texts(places, rollout.metadata)
    except MissingMetadata as error:
        return str(error)
    return None


def _group_id(rollout: Rollout, who: str) -> str | None:
    if rollout.group_id is None:
        return f"group_id: is missing; {who} compares the rollouts of one prompt"
    return None


def _correct(rollout: Rollout, who: str) -> str | None:
    if rollout.correct is None and rollout.base_score is None:
        return f"correct: is missing; {who} needs it, or a base_score"
    return None


def _base_score(rollout: Rollout, who: str, *, positive: bool) -> str | None:
    score = rollout.base_score
    if score is None and rollout.correct is None:
        return f"base_score: is missing; {who} uses it as the quality score"
    if positive and score is not None and score < 0:
        return (
            f"base_score: is {shown(score)}; {who} needs scores of at least 0, because a negative one"
            " inverts its effect"
        )
    return None


def _token_ids(rollout: Rollout, who: str, *, required: bool) -> str | None:
    if rollout.token_ids is None:
        return f"token_ids: are missing; {who} needs them" if required else None
    try:
        token_ids.checked(rollout.token_ids)
    except ValueError as error:
        return f"token_ids: {error}"
    return None


def _metadata(rollout: Rollout, who: str, *, name: str, key: str) -> str | None:
    value = rollout.metadata.get(key)
    where = f"metadata[{shown(key)}]"
    if value is None:
        if name == "history_lengths":
            return None
        return f"{where}: is missing; {who} needs it as `{name}`"
    if name in FLAGS:
        return None if isinstance(value, (bool, np.bool_)) else f"{where}: must be true or false"
    whole = name in COUNTS | SPANS
    number = isinstance(value, Integral if whole else Real) and not isinstance(value, bool)
    if not number or abs(value) > _MAX_NUMBER or (name != "advantages" and value < 0):
        return (
            f"{where}: is {shown(value)}; give a {'whole ' if whole else ''}number from 0 to 2^53"
        )
    return None


def _split(rollout: Rollout, who: str, *, by_ids: bool) -> str | None:
    if not by_ids:
        return (
            f"response: {who} separates thinking from answer; set `tokenizer` in the config, or"
            " `think.close_ids`, or another `unit` than tokens"
        )
    return _token_ids(rollout, who, required=True)


def _response_tokens(rollout: Rollout) -> str | None:
    if rollout.response_tokens is None and rollout.token_ids is None:
        return "response_tokens: is missing; give the count, or set `tokenizer` in the config"
    return None
