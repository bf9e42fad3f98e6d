"""Declarations of methods that compare the lengths of a group, correct or not."""

from typing import Literal, Self

from pydantic import Field, model_validator

from oyer.config.length_methods.method import Method, Params

_MODULE = "oyer.tasks.lengths.methods.group:"


class MedianBand(Params):
    """A band around the group's median length."""

    peak_ratio: float = Field(0.3, ge=0)
    """Half width of the free band, as a share of the median."""
    outer_ratio: float = Field(0.5, gt=0)
    """Distance from the median at which the penalty is full, as a share of the median."""
    max_penalty: float = Field(1.0, ge=0)
    """The full penalty."""
    penalty_scale: float = Field(1.0, ge=0)
    """Multiplies the penalty."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.peak_ratio >= self.outer_ratio:
            raise ValueError("peak_ratio: below `outer_ratio`")
        return self


class Gr3(Params):
    """How strongly the mean length divides the reward."""

    alpha: float = Field(0.33, ge=0)
    """Share of the relative length in the divisor."""


class LinearPassRate(Params):
    """prime-rl's linear penalty, in proportion to the group's mean reward."""

    norm: Literal["group_max", "max_seq_len"] = "group_max"
    """Divide by the group's largest, or output by `max_seq_len`."""
    coef: float = Field(0.25, ge=0)
    """Weight of the output under `max_seq_len`."""
    max_seq_len: int = Field(8192, gt=0)
    """The constant normaliser."""
    gate_by_correctness: bool = False
    """Penalise only rows whose reward is 1."""
    w_output: float = Field(0.25, ge=0)
    """Weight of sampled tokens under `group_max`."""
    w_input: float = Field(0.1, ge=0)
    """Weight of the other tokens under `group_max`."""
    w_turns: float = Field(0.1, ge=0)
    """Weight of turns under `group_max`."""


class Grlc(Params):
    """Group-relative length control for thinking and answer."""

    lambda_think: float = Field(0.5, ge=0)
    """Weight of the centred brevity of the thinking."""
    lambda_answer: float = Field(0.5, ge=0)
    """Weight of the centred brevity of the answer."""
    beta_think: float = Field(0.5, ge=0)
    """Bonus of the group's shortest thinking."""
    beta_answer: float = Field(0.5, ge=0)
    """Bonus of the group's shortest answer."""
    percentile: float = Field(80.0, ge=0, le=100)
    """The bonus goes to rows at or above this percentile of the group's scores."""


class O1Pruner(Params):
    """Length ratio and accuracy gain over the reference."""

    lambda_: float = Field(2.0, ge=0)
    """Weight of the accuracy gain."""
    clip: tuple[float, float] | None = (-2.0, 4.0)
    """Lowest and highest value."""


class LcR1(Params):
    """LC-R1's length term."""

    coef: float = Field(1.0, ge=0)
    """Weight of the term."""
    eps: float = Field(0.0, ge=0)
    """Added to the divisor, for parity; 0 divides by at least one token."""


METHODS = (
    Method(
        name="median_band",
        summary="No penalty around the group's median length; it increases on both sides.",
        kind="add",
        function=_MODULE + "median_band",
        params=MedianBand,
        needs=frozenset({"lengths", "group_ids"}),
        range="[-penalty_scale * max_penalty, 0]",
        paper="the replaced reward manager's rule",
        parity="LengthPenaltyRewardManager",
    ),
    Method(
        name="gr3",
        summary="Divides a reward that is not negative by one plus the relative length.",
        kind="multiply",
        function=_MODULE + "gr3",
        params=Gr3,
        needs=frozenset({"lengths", "group_ids", "quality>=0"}),
        range="(0, 1]",
        gate="in proportion to the reward",
        paper="GR3, arXiv:2603.10535",
        parity="prime-rl c1bbbf923",
    ),
    Method(
        name="brevity_bonus",
        summary="Up to twice the reward for short rows among the group's best.",
        kind="multiply",
        function=_MODULE + "brevity_bonus",
        needs=frozenset({"lengths", "group_ids", "quality"}),
        range="[1, 2]",
        gate="rows with the group's highest score",
        paper="prime-rl (efficiency)",
        parity="prime-rl f8a146063",
    ),
    Method(
        name="linear_pass_rate",
        summary="Linear penalty on output, input and turns, scaled by the group's mean reward.",
        kind="add",
        function=_MODULE + "linear_pass_rate",
        params=LinearPassRate,
        needs=frozenset({"lengths", "group_ids", "quality"}),
        uses=frozenset({"total_tokens", "turns"}),
        range="(-inf, 0] for rewards that are not negative",
        gate="optional: a reward of 1",
        paper="prime-rl",
        parity="prime-rl 7f7771388 (max_seq_len), 559b4477 (group_max)",
    ),
    Method(
        name="grlc",
        summary="Centred reward for short thinking and answers; bonus for the shortest good row.",
        kind="add",
        function=_MODULE + "grlc",
        params=Grlc,
        needs=frozenset({"think_lengths", "answer_lengths", "group_ids", "quality"}),
        range="[-(lambda_think + lambda_answer), their sum + beta_think + beta_answer]",
        gate="the bonus: scores at or above the percentile",
        paper="Nemotron 3 Nano, arXiv:2512.20848 section 3.3",
    ),
    Method(
        name="o1_pruner",
        summary="Reference length over length, plus the accuracy gain over the reference.",
        kind="add",
        function=_MODULE + "o1_pruner",
        params=O1Pruner,
        needs=frozenset({"lengths", "correct", "group_ids"}),
        uses=frozenset({"reference_lengths", "reference_accuracy"}),
        range="clip",
        paper="O1-Pruner, arXiv:2501.12570",
        parity="O1-Pruner's data set script, with the group as reference",
    ),
    Method(
        name="lc_r1_length",
        summary="One minus length over the longest correct answer, on every row.",
        kind="add",
        function=_MODULE + "lc_r1_length",
        params=LcR1,
        needs=frozenset({"lengths", "correct", "group_ids"}),
        range="(-inf, coef]",
        paper="LC-R1",
        parity="LC-R1 with eps",
    ),
)
