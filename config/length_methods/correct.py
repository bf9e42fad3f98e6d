"""Declarations of methods that compare lengths with those of a group's correct rows."""

from dataclasses import replace
from typing import Literal

from pydantic import Field

from oyer.config.length_methods.method import Method, Params

_MODULE = "oyer.tasks.lengths.methods.correct:"


class Kimi(Params):
    """Kimi k1.5's length reward."""

    weight: float = Field(1.0, ge=0)
    """Multiplies the term; unpublished in the paper, 0.4 in LASER's baseline."""
    eps: float = Field(0.0, ge=0)
    """Added to the range of lengths, for parity; 0 makes equal lengths neutral."""
    singleton: Literal["neutral", "min0_max1"] = "neutral"
    """A group of one: 0, or the minimum 0 and maximum 1 that LASER's baseline takes."""


class SigmoidLength(Params):
    """Arora and Zanette's multiplier."""

    alpha: float = Field(0.1, ge=0, lt=1)
    """Largest share of the reward that length can take."""
    ddof: Literal[0, 1] = 0
    """Delta degrees of freedom of the standard deviation."""
    eps: float = Field(0.0, ge=0)
    """Added to the standard deviation, for parity; 0 makes equal lengths neutral."""
    singleton: Literal["neutral", "mean0_std1"] = "neutral"
    """A single correct row: z = 0, or LASER's mean 0 and deviation 1."""
    check_eos: bool = True
    """Truncated rows count as wrong and leave the statistics."""


class ShorterBetter(Params):
    """Distance to the shortest correct answer."""

    alpha: float = Field(2.0, ge=0)
    """Reward of a correct answer."""
    beta: float = Field(0.001, ge=0)
    """Penalty per token of distance."""


class GrpoLead(Params):
    """GRPO-LEAD's length multiplier."""

    alpha: float = Field(0.05, ge=0)
    """Strength."""
    ddof: Literal[0, 1] = 1
    """Delta degrees of freedom of the standard deviation."""
    eps: float = Field(0.0, ge=0)
    """Added to the standard deviation, for parity; 0 makes equal lengths neutral."""
    skip_if_mean_of_3_shortest_le: float | None = Field(None, ge=0)
    """Skip a group whose 3 shortest rows average at most this; 4000 in the released code."""


class Alp(Params):
    """The adaptive length penalty."""

    beta: float = Field(0.1, ge=0)
    """Penalty at a length equal to `norm` if all rows are correct."""
    norm: float = Field(1000.0, gt=0)
    """Divisor of the length, in tokens."""


class ShortRl(Params):
    """Short-RL's length reward."""

    length_tolerance: int = Field(100, ge=0)
    """Full reward within this many tokens of the shortest correct answer."""
    acc_tolerance: float = Field(0.05, ge=0)
    """The term is off while the batch accuracy is this far below the best so far."""
    max_acc_so_far: float = Field(0.0, ge=0, le=1)
    """The best batch accuracy so far; the caller keeps it."""
    eps: float = Field(0.0, ge=0)
    """Added to the range of lengths, for parity; 0 makes equal lengths neutral."""


class Jet(Params):
    """JET's length reward."""

    alpha: float = Field(1.2, ge=0)
    """Scale of the brevity."""
    delta: float = Field(0.05, ge=0, le=1)
    """Reward of the longest correct answer."""
    eps: float = Field(0.0, ge=0)
    """Added to the range of lengths, for parity."""


class Dast(Params):
    """DAST's token budget."""

    max_len: int = Field(4096, gt=0)
    """Budget if no row is correct."""


class Diet(Params):
    """DIET's length term."""

    weight: float = Field(0.025, ge=0)
    """Weight of the term; an annealing schedule multiplies it per call."""
    adaptive: bool = True
    """Multiply by the group's pass rate."""


class ShortestCorrectBonus(Params):
    """prime-rl's bonus for fully solved groups."""

    bonus: float = Field(0.1, ge=0)
    """Added to every shortest row of such a group."""


_CORRECT = frozenset({"lengths", "correct", "group_ids"})

_GRPO_LEAD = Method(
    name="grpo_lead",
    summary="Exponential of the length's z-score among the group's correct rows.",
    kind="multiply",
    function=_MODULE + "grpo_lead_length",
    params=GrpoLead,
    needs=_CORRECT,
    range="(0, inf)",
    gate="correct",
    paper="GRPO-LEAD, arXiv:2504.09696",
    parity="GRPO-LEAD with eps and skip_if_mean_of_3_shortest_le: 4000",
)
"""The vectors call it `grpo_lead_length`."""

METHODS = (
    Method(
        name="kimi_length_reward",
        summary="From 0.5 for the group's shortest row to -0.5 for its longest; wrong rows: 0 at most.",
        kind="add",
        function=_MODULE + "kimi_length_reward",
        params=Kimi,
        needs=_CORRECT,
        range="[-weight / 2, weight / 2]",
        gate="wrong rows: at most 0",
        paper="Kimi k1.5, arXiv:2501.12599",
        parity="open-r1; LASER's baseline with eps: 1e-6 and singleton: min0_max1",
    ),
    Method(
        name="sigmoid_length",
        summary="Correct rows lose up to alpha, by the z-score of their length; wrong rows get 0.",
        kind="multiply",
        function=_MODULE + "sigmoid_length",
        params=SigmoidLength,
        needs=_CORRECT,
        uses=frozenset({"truncated"}),
        range="{0} and (1 - alpha, 1)",
        gate="correct",
        paper="Arora and Zanette, arXiv:2502.04463",
        parity="efficient-reasoning; LASER's baseline with ddof: 1 and singleton: mean0_std1",
    ),
    Method(
        name="shorterbetter",
        summary="Correctness minus the distance to the shortest correct answer.",
        kind="total",
        function=_MODULE + "shorterbetter",
        params=ShorterBetter,
        needs=_CORRECT,
        range="(-inf, alpha]",
        gate="none: the distance applies to wrong rows too",
        paper="ShorterBetter",
        parity="ShorterBetter",
    ),
    _GRPO_LEAD,
    replace(_GRPO_LEAD, name="grpo_lead_length"),
    Method(
        name="alp",
        summary="Linear penalty scaled by the pass rate, which is at least 1/K.",
        kind="add",
        function=_MODULE + "alp",
        params=Alp,
        needs=_CORRECT,
        range="(-inf, 0]",
        gate="none: scaled by the pass rate",
        paper="ALP, arXiv:2506.05256",
    ),
    Method(
        name="short_rl",
        summary="Kimi's term among correct rows: constant near the shortest, 0 at low accuracy.",
        kind="add",
        function=_MODULE + "short_rl",
        params=ShortRl,
        needs=_CORRECT,
        range="[-0.5, 0.5]",
        gate="correct; the batch's accuracy",
        paper="Short-RL",
        parity="Short-RL with eps: 1e-5",
    ),
    Method(
        name="jet",
        summary="Reward for short correct rows, with a lower bound.",
        kind="add",
        function=_MODULE + "jet",
        params=Jet,
        needs=_CORRECT,
        range="{0} and [delta, alpha * (1 - delta) + delta]",
        gate="correct",
        paper="JET (Just-Enough-Think)",
        parity="JET with eps: 1e-8",
    ),
    Method(
        name="dast",
        summary="Distance to a budget between the correct rows' mean and the limit.",
        kind="total",
        function=_MODULE + "dast",
        params=Dast,
        needs=_CORRECT,
        range="[0.1, 1] correct, [-1, -0.1] wrong",
        gate="two branches",
        paper="DAST, arXiv:2503.04472",
    ),
    Method(
        name="diet_token_score",
        summary="Kimi's term over the range of correct rows, scaled by the pass rate.",
        kind="add",
        function=_MODULE + "diet_token_score",
        params=Diet,
        needs=_CORRECT,
        range="small, of either sign",
        paper="DIET",
    ),
    Method(
        name="shortest_correct_bonus",
        summary="A bonus for every shortest row of a fully solved group.",
        kind="add",
        function=_MODULE + "shortest_correct_bonus",
        params=ShortestCorrectBonus,
        needs=_CORRECT,
        range="{0, bonus}",
        gate="groups that are all correct",
        paper="prime-rl",
        parity="prime-rl 43989804b",
    ),
)
