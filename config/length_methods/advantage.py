"""Declarations of methods that select rows, shape advantages or aggregate rewards."""

from dataclasses import replace
from typing import Literal, Self

from pydantic import Field, model_validator

from oyer.config.length_methods.method import Method, Params

_MODULE = "oyer.tasks.lengths.methods.advantage:"


class Qglas(Params):
    """Quality-gated length-aware shaping."""

    beta_min: float = Field(0.3, ge=0)
    """Least weight of the bonus."""
    beta_max: float = Field(0.6, ge=0)
    """Largest weight of the bonus."""
    clip: float = Field(0.5, gt=0)
    """Relative saving that earns the full bonus."""
    eps: float = Field(0.0, ge=0)
    """Added to every divisor, for parity; 0 makes equal scores neutral."""
    std_normalised: bool = False
    """Divide advantages and bonus by the group's standard deviation."""
    ddof: Literal[0, 1] = 0
    """Delta degrees of freedom of the standard deviation."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.beta_min > self.beta_max:
            raise ValueError("beta_min: at most `beta_max`")
        return self


class AdvantageReweight(Params):
    """Moves positive advantage to short rows; the values are ours, none were published."""

    alpha: float = Field(0.5, ge=0, le=1)
    """Weight of the longest positive row."""
    gamma: float = Field(1.0, gt=0)
    """Curvature."""
    tau: float = Field(0.5, ge=0, le=1)
    """Least share of positive rows at which a group is changed."""
    eps: float = Field(0.0, ge=0)
    """Added to the range of lengths and to the sum, for parity; 0 makes equal lengths neutral."""


class GfpoMask(Params):
    """Keeps the best rows of every group."""

    k: int = Field(8, ge=1)
    """Rows kept in a group."""
    metric: Literal["short", "efficiency"] = "short"
    """Keep the shortest, or those with the most reward per token."""

    def also_needs(self) -> frozenset[str]:
        return frozenset({"quality"} if self.metric == "efficiency" else ())


class Gfpo(GfpoMask):
    """Advantages within the kept rows."""

    ddof: Literal[0, 1] = 0
    """Delta degrees of freedom of the standard deviation of the kept rows."""


class DifficultyWeight(Params):
    """GRPO-LEAD's logistic weight of a pass rate."""

    A: float = 0.4
    """Weight of an easy prompt."""
    B: float = 1.5
    """Weight of a hard prompt."""
    rho0: float = 0.75
    """Pass rate half way."""
    k: float = Field(10.0, gt=0)
    """Steepness."""


class Aggregate(Params):
    """How several rewards become one advantage."""

    mode: Literal["sum", "sum_then_normalize", "normalize_then_sum"] = "sum_then_normalize"
    """Weighted sum; its z-score in the group; or z-scores summed and then scored (GDPO)."""
    weights: tuple[float, ...] | None = None
    """One a reward; none is 1 each."""
    eps: float = Field(0.0, ge=0)
    """Added to standard deviations, for parity (1e-4); 0 makes equal rewards neutral."""
    ddof: Literal[0, 1] = 1
    """Delta degrees of freedom of standard deviations."""
    float32_bessel: bool = False
    """Round n / (n - 1) to single precision, as TRL's nanstd does."""
    baseline: Literal["group_mean", "length_weighted", "none"] = "group_mean"
    """Taken off the sum: the group's mean, its length-weighted mean (OPO), or nothing."""

    def also_needs(self) -> frozenset[str]:
        return frozenset({"lengths"} if self.baseline == "length_weighted" else ())


class Gdpo(Aggregate):
    """Aggregate with GDPO's order."""

    mode: Literal["sum", "sum_then_normalize", "normalize_then_sum"] = "normalize_then_sum"
    """Weighted sum; its z-score in the group; or z-scores summed and then scored (GDPO)."""


class TrlAggregate(Aggregate):
    """Aggregate with TRL's rounding."""

    float32_bessel: bool = True
    """Round n / (n - 1) to single precision, as TRL's nanstd does."""


class Brpo(Params):
    """AnytimeReasoner's baseline for every segment of the thinking."""

    budget_probs: tuple[float, ...]
    """Probability of each budget."""
    discount: float = Field(2.0, gt=0)
    """How much more each later score weighs."""


_AGGREGATE_METHOD = Method(
    name="aggregate",
    summary="Combines several rewards into one advantage: sum, normalised sum, or GDPO.",
    kind="advantage",
    function=_MODULE + "aggregate",
    params=Aggregate,
    needs=frozenset({"components", "group_ids"}),
    uses=frozenset({"lengths"}),
    range="unbounded",
    paper="GDPO; TRL",
    parity="NVlabs GDPO with eps: 1e-4; TRL with float32_bessel too",
)

METHODS = (
    Method(
        name="qglas",
        summary="A bonus for short rows among those with a positive advantage.",
        kind="advantage",
        function=_MODULE + "qglas",
        params=Qglas,
        needs=frozenset({"lengths", "quality", "group_ids"}),
        range="the sign of every advantage is kept",
        gate="positive advantage",
        paper="QGLAS eqs. 1-8",
    ),
    Method(
        name="advantage_reweight",
        summary="Moves positive advantage from long rows to short ones, keeping its sum.",
        kind="advantage",
        function=_MODULE + "advantage_reweight",
        params=AdvantageReweight,
        needs=frozenset({"lengths", "group_ids", "advantages|quality"}),
        range="the sign of every advantage is kept",
        gate="positive advantage, in groups with enough of them",
        paper="Intern-S2-Preview section 4.3.2 eqs. 14-17",
    ),
    Method(
        name="gfpo",
        summary="Advantages within the kept rows of every group; 0 for the others.",
        kind="advantage",
        function=_MODULE + "gfpo",
        params=Gfpo,
        needs=frozenset({"lengths", "quality", "group_ids"}),
        range="z-scores",
        gate="the kept rows",
        paper="GFPO, arXiv:2508.09726",
    ),
    Method(
        name="gfpo_mask",
        summary="Keeps the k shortest or most efficient rows of every group.",
        kind="mask",
        function=_MODULE + "gfpo_mask",
        params=GfpoMask,
        needs=frozenset({"lengths", "group_ids"}),
        uses=frozenset({"quality"}),
        range="{0, 1}",
        paper="GFPO, arXiv:2508.09726",
    ),
    Method(
        name="grpo_lead_advantage",
        summary="Weights advantages by the prompt's difficulty.",
        kind="advantage",
        function=_MODULE + "grpo_lead_advantage",
        params=DifficultyWeight,
        needs=frozenset({"correct", "group_ids", "advantages|quality"}),
        range="the sign of every advantage is kept",
        paper="GRPO-LEAD, arXiv:2504.09696",
    ),
    Method(
        name="grpo_lead_difficulty_weight",
        summary="Weight of a pass rate; negative advantages get the weight of 1 - rate.",
        kind="measure",
        function=_MODULE + "difficulty_weight",
        params=DifficultyWeight,
        needs=frozenset({"correct_ratio"}),
        range="[A, B]",
        paper="GRPO-LEAD, arXiv:2504.09696",
        parity="GRPO-LEAD",
    ),
    _AGGREGATE_METHOD,
    replace(_AGGREGATE_METHOD, name="trl_aggregate", params=TrlAggregate),
    replace(_AGGREGATE_METHOD, name="gdpo", params=Gdpo),
    Method(
        name="brpo",
        summary="Advantage of each thinking segment from the scores at several budgets.",
        kind="measure",
        function=_MODULE + "brpo",
        params=Brpo,
        needs=frozenset({"budget_scores", "group_ids"}),
        range="one advantage a row and segment",
        paper="AnytimeReasoner (BRPO)",
        parity="AnytimeReasoner",
    ),
)
