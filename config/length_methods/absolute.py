"""Declarations of methods based on one row's length and fixed thresholds."""

from typing import Literal, Self

from pydantic import Field, model_validator

from oyer.config.length_methods.method import Method, Params

_MODULE = "oyer.tasks.lengths.methods.absolute:"


class SoftOverlong(Params):
    """Where the penalty begins and how far it goes."""

    max_len: int = Field(20480, gt=0)
    """Length at which the penalty is full."""
    cache_len: int = Field(4096, ge=0)
    """The penalty rises over this many tokens before `max_len`; 0 makes it a step."""
    penalty_factor: float = Field(1.0, ge=0)
    """The full penalty."""
    clamp: bool = True
    """Stop at the full penalty beyond `max_len`; off, it keeps rising as in verl."""


class StopProperly(Params):
    """How a truncated row's reward changes."""

    coef: float = Field(0.1, le=1)
    """0 to 1 multiplies the reward; below 0 replaces it."""

    def also_needs(self) -> frozenset[str]:
        return frozenset({"base_reward"} if self.coef < 0 else ())


class Linear(Params):
    """A penalty proportional to length."""

    coef: float = Field(0.25, ge=0)
    """Penalty at a length equal to `norm`; also for the multiplier of a dual method."""
    norm: float | Literal["group_max", "group_mean"] = "group_max"
    """Divisor of the length: a constant, or the group's longest or mean length."""
    scale_by: Literal["none", "pass_rate", "reward"] = "none"
    """Multiply by the group's share of correct rows, or by its mean reward (prime-rl)."""
    pass_rate_floor: float | Literal["1/K"] = 0.0
    """Least pass rate used; `1/K` also penalises groups without a correct row (ALP)."""
    free_len: int = Field(0, ge=0)
    """Length without a penalty (LEASH's budget)."""
    gate_by_correctness: bool = False
    """Penalise correct rows only."""
    cap: float | None = Field(None, ge=0)
    """Largest penalty."""

    @model_validator(mode="after")
    def _ranges(self) -> Self:
        if not isinstance(self.norm, str) and self.norm <= 0:
            raise ValueError("norm: a constant normaliser is above 0")
        if not isinstance(self.pass_rate_floor, str) and not 0 <= self.pass_rate_floor <= 1:
            raise ValueError("pass_rate_floor: between 0 and 1, or '1/K'")
        return self

    def also_needs(self) -> frozenset[str]:
        needs = set()
        if self.scale_by != "none" or isinstance(self.norm, str):
            needs.add("group_ids")
        if self.scale_by == "pass_rate" or self.gate_by_correctness:
            needs.add("correct")
        if self.scale_by == "reward":
            needs.add("quality")
        return frozenset(needs)


class TargetRange(Params):
    """A dead band between two lengths."""

    low: int = Field(0, ge=0)
    """Shortest length without a penalty."""
    high: int = Field(4096, gt=0)
    """Longest length without a penalty."""
    slope_low: float = Field(0.0003, ge=0)
    """Penalty per token below `low`."""
    slope_high: float = Field(0.0003, ge=0)
    """Penalty per token above `high`."""
    cap: float | None = Field(1.0, ge=0)
    """Largest penalty."""
    gate_by_correctness: bool = False
    """Penalise correct rows only."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low > self.high:
            raise ValueError("low: at most `high`")
        return self

    def also_needs(self) -> frozenset[str]:
        return frozenset({"correct"} if self.gate_by_correctness else ())


class MinLengthRamp(Params):
    """A penalty on short answers."""

    min_len: int = Field(100, ge=0)
    """Length up to which the penalty is full."""
    max_len: int = Field(400, gt=0)
    """Length from which there is no penalty."""
    max_penalty: float = Field(0.5, ge=0)
    """The full penalty."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_len >= self.max_len:
            raise ValueError("min_len: below `max_len`")
        return self


class ThinkLengthBonus(Params):
    """A bonus for long thinking."""

    max_reward_len: int = Field(512, gt=0)
    """Length that earns the full bonus."""
    max: float = 1.0
    """Bonus at `max_reward_len`."""
    min: float = 0.0
    """Bonus at length 0."""
    decimals: int = Field(2, ge=0, le=15)
    """The share of `max_reward_len` is rounded to this many decimals."""


class ConcaveEffort(Params):
    """The curve of the cost."""

    k: float = Field(0.001, gt=0)
    """Scale of the effort, per token; the paper gives no value."""
    q: float = Field(0.5, ge=0, le=1)
    """Curvature: 0 is linear, 1 the logarithm; the paper gives no value."""


class LagrangianOverBudget(Params):
    """A dual method's penalty over a budget; the caller keeps and updates the multiplier."""

    target: int = Field(4000, gt=0)
    """Budget without a penalty."""
    lam: float = Field(0.3, ge=0)
    """The multiplier of the penalty."""


METHODS = (
    Method(
        name="soft_overlong",
        summary="Linear penalty over the last tokens before the limit.",
        kind="add",
        function=_MODULE + "soft_overlong",
        params=SoftOverlong,
        needs=frozenset({"lengths"}),
        range="[-penalty_factor, 0]; unbounded below with clamp off",
        paper="DAPO, arXiv:2503.14476 eq. 13",
        parity="TRL, open-r1, OpenRLHF; verl, ms-swift, NeMo-RL, AReaL with clamp: false",
    ),
    Method(
        name="stop_properly_penalty",
        summary="Scales or replaces the reward of truncated rows.",
        kind="multiply",
        function=_MODULE + "stop_properly_penalty",
        params=StopProperly,
        needs=frozenset({"truncated"}),
        uses=frozenset({"base_reward"}),
        range="{coef, 1}; the reward itself with coef below 0",
        gate="truncated rows",
        paper="ProRL; DLER",
        parity="OpenRLHF, NeMo-RL, DLER",
    ),
    Method(
        name="linear",
        summary="Penalty proportional to length, optionally scaled by the pass rate.",
        kind="add",
        function=_MODULE + "linear",
        params=Linear,
        needs=frozenset({"lengths"}),
        uses=frozenset({"group_ids", "correct", "quality"}),
        range="(-inf, 0], or [-cap, 0]",
        gate="optional: correct",
        paper="definition; ALP arXiv:2506.05256; LEASH arXiv:2512.21540",
        parity="prime-rl (linear), ALP, LEASH by parameters",
    ),
    Method(
        name="target_range",
        summary="No penalty inside a range, linear outside, capped.",
        kind="add",
        function=_MODULE + "target_range",
        params=TargetRange,
        needs=frozenset({"lengths"}),
        uses=frozenset({"correct"}),
        range="[-cap, 0]",
        gate="optional: correct",
        paper="definition (dead band)",
        parity="LCPO-Exact's term where low == high",
    ),
    Method(
        name="min_length_ramp",
        summary="Penalty for short answers that decreases linearly to 0.",
        kind="add",
        function=_MODULE + "min_length_ramp",
        params=MinLengthRamp,
        needs=frozenset({"lengths"}),
        range="[-max_penalty, 0]",
        paper="ROLL",
        parity="ROLL",
    ),
    Method(
        name="think_length_bonus",
        summary="Bonus that grows with the length of the thinking.",
        kind="add",
        function=_MODULE + "think_length_bonus",
        params=ThinkLengthBonus,
        needs=frozenset({"lengths"}),
        range="[min, max]",
        paper="ToolRL",
        parity="GDPO's ToolRL demo",
    ),
    Method(
        name="concave_effort",
        summary="Concave cost of effort: each further token costs less.",
        kind="add",
        function=_MODULE + "concave_effort",
        params=ConcaveEffort,
        needs=frozenset({"lengths"}),
        range="(-inf, 0]",
        paper="Composer 2, arXiv:2603.24477 section 4.2",
    ),
    Method(
        name="lagrangian_over_budget",
        summary="Penalty proportional to the tokens over a budget, with a given multiplier.",
        kind="add",
        function=_MODULE + "lagrangian_over_budget",
        params=LagrangianOverBudget,
        needs=frozenset({"lengths"}),
        range="(-inf, 0]",
        paper="LEASH, arXiv:2512.21540",
    ),
)
