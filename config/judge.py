"""Configuration of a judge and its fallback."""

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from oyer.config import rubric as rubrics
from oyer.config.criteria.criterion import Combine, Criterion, problem_of
from oyer.config.endpoint import Body
from oyer.config.group_judge import PairChunks, group_defaults, group_problem
from oyer.config.section import Section
from oyer.protocol.content import turn_states
from oyer.protocol.errors import InvalidConfig

MAX_EXPECTED = 1000
"""Widest scale with an expected score: the logprobs are searched for each score."""


CRITERIA_SCALE = (0.0, 1.0)
"""Scale of a judge that gives verdicts; under `points`, faults can lead below it."""

SIGNED_SCALE = (-1.0, 1.0)
"""Scale under `combine_criteria: signed`."""


def _asks_for_verdicts(rubric: Any) -> bool:
    """Whether a `rubric` setting asks for verdicts; False if it cannot be used."""
    try:
        return rubrics.parse(rubrics.resolve(rubric)).reply == "verdicts"
    except (InvalidConfig, AttributeError, TypeError):
        return False  # the validator of `rubric` reports it


class Fallback(Section):
    """The model that replaces a judge, with the same rubric and scale."""

    endpoint: str = Field(min_length=1, max_length=100)
    """Name of an entry of the workers' `endpoints`."""
    model: str = Field(min_length=1, max_length=200)
    """The model name that this endpoint expects."""


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
    view: Literal["full", "last_reply", "no_thinking", "tool_calls", "each_turn"] = "full"
    """What the judge is shown of a response: `full`, all of it; `last_reply`, the last message of the
    policy, without thinking; `no_thinking`, all but thinking; `tool_calls`, tool calls and results;
    `each_turn`, in one request per turn, all up to that turn: the rollout's score is the last turn's,
    and `batch.turn_scores` has them all. One judge at most has `each_turn`."""
    max_view_chars: int | None = Field(default=None, ge=100, le=10**8)
    """Longest response shown, in characters: the middle of its longest parts is cut, which the judge is
    told and the record notes (`view_truncated`); null cuts nothing."""
    images: Literal["placeholder", "send", "reject"] = "placeholder"
    """Images in prompt and response: `placeholder`, shown as `[image]`; `send`, sent to the judge's
    model as image parts; `reject`, a rollout with images is `rejected`. Images that no judge takes
    are not recorded."""
    empty_score: float | None = Field(default=None, allow_inf_nan=False)
    """Score of an empty response; null means the lowest of the scale."""

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
    criteria: tuple[Criterion, ...] = ()
    """Criteria that the judge gives a verdict on, one each, in place of one score."""
    criteria_from: str | None = Field(default=None, pattern=r"^metadata(\.[^.]+)+$")
    """Where a rollout has its own criteria, e.g. `metadata.rubric`, in the format of HealthBench, Rubrics
    as Rewards, open-instruct or verifiers; one without them is judged by `criteria`."""
    criteria_per_call: Literal["all"] | Annotated[int, Field(ge=1)] = "all"
    """Criteria that one call asks about: `all` or a number. More calls cost more and judge each criterion
    more independently; their common part comes first, so that providers can cache it."""
    combine_criteria: Combine = "weighted"
    """How verdicts become the judge's score, with weight w and value v from 0 to 1: `weighted`,
    Σ|w|·g / Σ|w|, where g is v, or 1 - v for a pitfall; `points`, Σw·v / Σ of the positive w; `signed`,
    Σw·v / Σ|w|; `mean` and `min` of g; `all` and `any`, 1 or 0."""
    min_valid_criteria: int | None = Field(default=None, ge=1)
    """Criteria that must have a verdict, or the rollout has no score; null means all."""

    @model_validator(mode="before")
    @classmethod
    def _group_defaults(cls, raw: Any) -> Any:
        """Choose the rubric and the scale that fit a group judge, if they are not given."""
        return group_defaults(raw)

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

    @model_validator(mode="before")
    @classmethod
    def _criteria_defaults(cls, raw: Any) -> Any:
        """Set the rubric and the scale of a judge that gives verdicts on criteria."""
        if not isinstance(raw, dict):
            return raw
        if (raw.get("criteria") or raw.get("criteria_from")) and raw.get("rubric") is None:
            raw = {**raw, "rubric": "criteria_en"}
        if not _asks_for_verdicts(raw.get("rubric")):
            return raw
        scale = SIGNED_SCALE if raw.get("combine_criteria") == "signed" else CRITERIA_SCALE
        given = raw.get("scale")
        if given is not None and (not isinstance(given, (list, tuple)) or tuple(given) != scale):
            raise ValueError("scale: follows from `combine_criteria`; leave it out")
        return {**raw, "scale": scale}

    @model_validator(mode="after")
    def _criteria_fit(self) -> Self:
        rubric = rubrics.parse(self.rubric)
        if rubric.reply != "verdicts":
            if self.criteria or self.criteria_from:
                raise ValueError(
                    "rubric: asks for one score; with `criteria` or `criteria_from`, leave it out or"
                    " give one with `reply: verdicts`"
                )
            used = {"criteria_per_call", "combine_criteria", "min_valid_criteria"}
            defaults = type(self).model_fields
            for key in sorted(used):
                if getattr(self, key) != defaults[key].default:
                    raise ValueError(f"{key}: needs `criteria` or `criteria_from`")
            return self
        if not self.own_criteria and self.criteria_from is None:
            raise ValueError("criteria: is missing; the rubric has none. Or give `criteria_from`")
        if self.expected_score:
            raise ValueError("expected_score: needs a judge that gives one score")
        problem = problem_of(self.own_criteria, self.combine_criteria)
        if problem is not None:
            raise ValueError(f"criteria{problem}")
        return self

    @property
    def gives_verdicts(self) -> bool:
        """Whether the judge gives verdicts on criteria, not one score."""
        return rubrics.parse(self.rubric).reply == "verdicts"

    @property
    def own_criteria(self) -> tuple[Criterion, ...]:
        """The judge's criteria, or those of its rubric, for rollouts without their own."""
        return self.criteria or rubrics.parse(self.rubric).verdicts_on

    @model_validator(mode="after")
    def _kind_fits(self) -> Self:
        """Refuse keys that the judge's kind does not use."""
        defaults = {name: field.default for name, field in type(self).model_fields.items()}
        if problem := group_problem(self, defaults, rubrics.parse(self.rubric).reply):
            raise ValueError(problem)
        return self

    @property
    def compares_pairs(self) -> bool:
        """Whether it is a group judge that compares pairs."""
        return self.kind == "group" and self.mode == "pairs"

    def mean_calls(self, responses: Sequence[str | Sequence[dict[str, Any]]]) -> float:
        """Return the mean number of calls for a rollout without criteria of its own."""
        size, turns = self.criteria_per_call, 1.0
        parts = 1 if size == "all" else max(1, -(-len(self.own_criteria) // size))
        if self.view == "each_turn" and responses:
            turns = sum(len(turn_states(one)) for one in responses) / len(responses)
        return self.samples * parts * turns

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
