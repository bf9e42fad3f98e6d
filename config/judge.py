"""Configuration of a judge and its fallback."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from oyer.config import rubric as rubrics
from oyer.config.endpoint import Body
from oyer.config.section import Section

MAX_EXPECTED = 1000
"""Widest scale with an expected score: the logprobs are searched for each score."""


_FOR_GROUPS = "for `kind: group`"
_FOR_PAIRS = "for `kind: group` and `mode: pairs`"
_FOR_LISTS = "for `kind: group` and `mode: listwise`"
_FOR_POINTWISE = "for `kind: pointwise`"
_UNUSED = {
    "pointwise": {
        "mode": _FOR_GROUPS,
        "pairs": _FOR_PAIRS,
        "both_orders": _FOR_PAIRS,
        "max_list_chars": _FOR_LISTS,
    },
    "listwise": {
        "pairs": _FOR_PAIRS,
        "both_orders": _FOR_PAIRS,
        "expected_score": _FOR_POINTWISE,
    },
    "pairs": {"max_list_chars": _FOR_LISTS, "expected_score": _FOR_POINTWISE},
}
"""The keys that a kind of judge does not use, and what they are for."""


class Fallback(Section):
    """The model that replaces a judge, with the same rubric and scale."""

    endpoint: str = Field(min_length=1, max_length=100)
    """Name of an entry of the workers' `endpoints`."""
    model: str = Field(min_length=1, max_length=200)
    """The model name that this endpoint expects."""


class PairChunks(Section):
    """Pairs within chunks of a group."""

    chunks: int = Field(ge=2, le=64)
    """Most responses of a chunk; all in one chunk are compared with each other."""


PAIRS_SCALE = (-1.0, 1.0)
"""The scale of a net win rate."""


class JudgeConfig(Section):
    """A judge: endpoint, model, rubric and sampling settings that score a rollout on a scale."""

    name: str = Field(min_length=1, max_length=80, pattern=r"^[A-Za-z0-9_.-]+$")
    """Names the judge in terms, rows and messages."""
    endpoint: str = Field(min_length=1, max_length=100)
    """Name of an entry of the workers' `endpoints`."""
    model: str = Field(min_length=1, max_length=200)
    """The model name that the endpoint expects."""
    version: str | None = Field(default=None, max_length=200, coerce_numbers_to_str=True)
    """State of the model, e.g. a checkpoint name; judgements of another version are not reused. Null:
    judgements of other base URLs, or of another model than the endpoint now reports, are not
    reused. `""`: all are reused, also those of releases without versions."""
    rubric: str = Field(default="reasoning_en", validate_default=True)
    """A built-in rubric's name, a path from this file's folder, or the text (with `{response}`)."""
    scale: tuple[float, float] = (1.0, 10.0)
    """Lowest and highest score; a reply with a score outside counts as `unparseable`."""
    normalize: bool = False
    """Count scores from 0 to 1 in place of `scale`, in rewards and wherever they are returned."""
    weight: float = Field(default=0.1, allow_inf_nan=False)
    """What one point of the judge's score adds to the reward."""
    temperature: float | None = Field(default=0.0, ge=0, le=2)
    """Sampling temperature; null leaves it to the endpoint."""
    max_tokens: int | None = Field(default=1024, ge=1, le=10**7)
    """Longest reply, in tokens; null leaves it to the endpoint."""

    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = (
        None
    )
    """How much a reasoning model thinks; null leaves it to the endpoint."""

    samples: int = Field(default=1, ge=1, le=64)
    """Times that each rollout is judged, at temperature 0 with a `seed` each; then aggregated."""
    aggregate: Literal["mean", "median"] = "mean"
    """How the samples of one rollout become one score: `mean` or `median`."""
    min_valid: int = Field(default=1, ge=1)
    """Samples that must have a score, or the rollout has none."""
    structured: bool = False
    """Ask for JSON by `response_format`; an endpoint that refuses it is asked in words."""
    reasks: int = Field(default=1, ge=0, le=5)
    """Times that a judge is asked again if its reply lacks the verdict line."""
    expected_score: bool = False
    """Use the mean of all scores, weighted by the judge's logprobs, in place of the score it wrote."""
    fallback: Fallback | None = None
    """Re-judges the whole group if the judge fails on any of it; submit the rollouts of a group together."""
    extra_body: Body = Field(default_factory=dict)
    """Further fields of the request's body, e.g. `{top_p: 0.9}`."""
    view: Literal["full", "last_reply", "no_thinking", "tool_calls"] = "full"
    """What the judge is shown of a response: `full`, all of it; `last_reply`, the last message of the
    policy, without thinking; `no_thinking`, all but thinking; `tool_calls`, tool calls and results."""
    max_view_chars: int | None = Field(default=None, ge=100, le=10**8)
    """Longest response shown, in characters: the middle of its longest parts is cut, which the judge is
    told and the record notes (`view_truncated`); null cuts nothing."""
    images: Literal["placeholder", "send", "reject"] = "placeholder"
    """Images in prompt and response: `placeholder`, shown as `[image]`; `send`, sent to the judge's
    model as image parts; `reject`, a rollout with images is `rejected`. Images that no judge takes
    are not recorded."""
    kind: Literal["pointwise", "group"] = "pointwise"
    """`pointwise`: each rollout is judged alone; `group`: the rollouts of a group are compared, so that
    scores of different groups cannot be. Give each rollout a `group_id`."""
    mode: Literal["listwise", "pairs"] = "listwise"
    """Of a group judge. `listwise`: one call scores the whole group, on `scale`; `pairs`: each call
    names the better of two responses, and the score is the net win rate, from -1 to 1."""
    pairs: Literal["circular", "all"] | PairChunks = "circular"
    """Of `mode: pairs`, the comparisons for N responses: `circular`, N; `all`, N(N - 1)/2; or
    `{chunks: 4}`, all within chunks of 4 at most, which is linear in N."""
    both_orders: bool = False
    """Of `mode: pairs`: compare each pair in both orders; a win counts if both agree."""
    max_list_chars: int | None = Field(default=None, ge=1000, le=10**8)
    """Of `mode: listwise`: most characters of the responses in one call. A larger group is split into
    lists that share one response, and are shifted to agree on its score; null never splits."""
    empty_score: float | None = Field(default=None, allow_inf_nan=False)
    """Score of an empty response; null means the lowest of the scale."""

    @model_validator(mode="before")
    @classmethod
    def _group_defaults(cls, raw: Any) -> Any:
        """Choose the rubric and the scale that fit a group judge, if they are not given."""
        if not isinstance(raw, dict) or raw.get("kind") != "group":
            return raw
        if raw.get("mode") == "pairs":
            return {"rubric": "pairwise_en", "scale": PAIRS_SCALE, **raw}
        return {"rubric": "listwise_en", **raw}

    @field_validator("scale")
    @classmethod
    def _ordered(cls, scale: tuple[float, float]) -> tuple[float, float]:
        low, high = scale
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ValueError("must be [lowest, highest] with lowest < highest, e.g. [1, 10]")
        return scale

    @model_validator(mode="after")
    def _enough_samples(self) -> Self:
        if self.min_valid > self.samples:
            raise ValueError(f"`min_valid` {self.min_valid} is more than `samples` {self.samples}")
        return self

    @model_validator(mode="after")
    def _whole_scores(self) -> Self:
        low, high = self.scale
        if self.expected_score and not (
            low.is_integer() and high.is_integer() and high - low <= MAX_EXPECTED
        ):
            raise ValueError(
                f"`expected_score` needs a `scale` between whole numbers, {MAX_EXPECTED} apart at"
                " most"
            )
        return self

    @model_validator(mode="after")
    def _group_keys(self) -> Self:
        """Refuse keys that the judge's kind does not use."""
        fields = type(self).model_fields
        unused = _UNUSED["pointwise" if self.kind == "pointwise" else self.mode]
        for name, fix in unused.items():
            if getattr(self, name) != fields[name].default:
                raise ValueError(f"`{name}` is {fix}")
        if self.kind == "group" and self.images == "send":
            raise ValueError("`images: send` is for `kind: pointwise`; a group judge reads text")
        if self.compares_pairs and self.scale != PAIRS_SCALE:
            raise ValueError(
                "`scale` is for `mode: listwise`; a net win rate is on [-1, 1], so leave it out"
            )
        return self

    @property
    def compares_pairs(self) -> bool:
        """Whether it is a group judge that compares pairs."""
        return self.kind == "group" and self.mode == "pairs"

    @property
    def counted_scale(self) -> tuple[float, float]:
        """The scale of scores in rewards and results."""
        return (0.0, 1.0) if self.normalize else self.scale

    def counted(self, score: float) -> float:
        """Convert a score from the judge's scale to `counted_scale`."""
        low, high = self.scale
        return (score - low) / (high - low) if self.normalize else score

    @property
    def substitute(self) -> "JudgeConfig | None":
        """The fallback as a separate judge, `<name>/fallback`; no configured name holds a slash.

        It has no `version`: the judge's version is not the fallback model's.
        """
        if self.fallback is None:
            return None
        model = {"endpoint": self.fallback.endpoint, "model": self.fallback.model}
        changed = {**model, "name": f"{self.name}/fallback", "fallback": None, "version": None}
        return self.model_copy(update=changed)

    @field_validator("rubric")
    @classmethod
    def _resolved(cls, rubric: str) -> str:
        return rubrics.resolve(rubric)


def check_group_judges(
    judges: Sequence[JudgeConfig], *, on_missing: str, conditions: Mapping[str, str]
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
