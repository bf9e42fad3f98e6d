"""Group judges in a configuration: their defaults, and what makes no sense."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from pydantic import Field

from oyer.config.section import Section

PAIRS_SCALE = (-1.0, 1.0)
"""The scale of a net win rate."""

_FOR_GROUPS = "for `kind: group`"
_FOR_PAIRS = "for `kind: group` and `mode: pairs`"
_FOR_LISTS = "for `kind: group` and `mode: listwise`"
_FOR_POINTWISE = "for `kind: pointwise`"
_POINTWISE_ONLY = {
    "expected_score": _FOR_POINTWISE,
    "criteria": _FOR_POINTWISE,
    "criteria_from": _FOR_POINTWISE,
}
_UNUSED: Mapping[str, Mapping[str, str]] = {
    "pointwise": {
        "mode": _FOR_GROUPS,
        "pairs": _FOR_PAIRS,
        "both_orders": _FOR_PAIRS,
        "max_list_chars": _FOR_LISTS,
    },
    "listwise": {"pairs": _FOR_PAIRS, "both_orders": _FOR_PAIRS, **_POINTWISE_ONLY},
    "pairs": {"max_list_chars": _FOR_LISTS, **_POINTWISE_ONLY},
}
"""The keys that a kind of judge does not use, and what they are for."""


class PairChunks(Section):
    """Pairs within chunks of a group."""

    chunks: int = Field(ge=2, le=64)
    """Most responses of a chunk; all in one chunk are compared with each other."""


class Judge(Protocol):
    """The keys of a judge that its kind decides about; see `JudgeConfig`."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def kind(self) -> str:
        """`pointwise` or `group`."""

    @property
    def mode(self) -> str:
        """`listwise` or `pairs`."""

    @property
    def view(self) -> str:
        """What the judge is shown of a response."""

    @property
    def scale(self) -> tuple[float, float]:
        """Lowest and highest score."""


def group_defaults(raw: Any) -> Any:
    """Add the rubric and the scale of a group judge, if they are not given."""
    if not isinstance(raw, dict) or raw.get("kind") != "group":
        return raw
    if raw.get("mode") == "pairs":
        return {"rubric": "pairwise_en", "scale": PAIRS_SCALE, **raw}
    return {"rubric": "listwise_en", **raw}


def group_problem(judge: Judge, defaults: Mapping[str, Any], reply: str) -> str | None:
    """Return which key does not fit a judge's kind, and why; or None.

    Args:
        defaults: of all keys.
        reply: what the judge's rubric asks for.
    """
    grouped = judge.kind == "group"
    if not grouped and reply == "comparison":
        return "`rubric` compares the responses of a group; set `kind: group`, or choose another"
    if grouped and reply == "verdicts":
        return "`rubric` asks for verdicts on criteria, which a group judge does not give"
    for name, purpose in _UNUSED[judge.mode if grouped else "pointwise"].items():
        if getattr(judge, name) != defaults[name]:
            return f"`{name}` is {purpose}"
    if grouped and judge.view == "each_turn":
        return "`view: each_turn` is for `kind: pointwise`; a group judge compares whole responses"
    if grouped and judge.mode == "pairs" and judge.scale != PAIRS_SCALE:
        return "`scale` is for `mode: listwise`; a net win rate is on [-1, 1], so leave it out"
    return None


def check_group_judges(
    judges: Sequence[Judge], *, on_missing: str, conditions: Mapping[str, str]
) -> None:
    """Refuse rules that compare the scores of a group judge between groups.

    Args:
        conditions: the score that each threshold reads, by its key.

    Raises:
        ValueError: names the key and the fix.
    """
    relative = [judge.name for judge in judges if judge.kind == "group"]
    if not relative:
        return
    name = relative[0]
    if on_missing == "group_mean":
        raise ValueError(
            f"reward.on_missing: `group_mean` cannot fill in scores of the group judge {name!r},"
            " which a group has all or none of; use `skip`, `value` or `raise`"
        )
    for key, source in conditions.items():
        kind, _, named = source.partition(":")
        if kind == "judge" and (named in relative or not named):
            raise ValueError(
                f"{key}: a threshold on {source!r} reads the group judge {named or name!r}, whose"
                " scores are relative to its group; set it on a pointwise judge, by `judge:<name>`"
            )
