"""Declarations of methods that measure against a stated length, mode or reference."""

from dataclasses import replace
from typing import Literal

from pydantic import Field

from oyer.config.length_methods.method import Method, Params

_MODULE = "oyer.tasks.lengths.methods.target:"


class LcpoExact(Params):
    """L1's exact variant."""

    alpha: float = Field(0.0003, ge=0)
    """Penalty per token of distance to the target."""
    cap: float | None = Field(None, ge=0)
    """Largest penalty; none keeps it unbounded, as in L1."""


class LcpoMax(Params):
    """L1's maximum variant, as in the paper."""

    alpha: float = Field(0.0003, ge=0)
    """Slope per token below the target."""
    delta: float = Field(0.5, ge=0, le=1)
    """Multiplier at the target."""


class LcpoMaxCode(Params):
    """L1's maximum variant, as in the released code."""

    alpha: float = Field(0.0003, ge=0)
    """Twice the slope per token."""
    multiplier: bool = True
    """Multiply correctness by the term; off, add it."""


class Hapo(Params):
    """History-aware reward: distance to the shortest correct answer so far."""

    shape: Literal["cosine", "linear"] = "cosine"
    """The curve."""
    w: float = Field(1.0, ge=0)
    """Weight of the term."""
    clip_correct: float = Field(-0.7, le=0)
    """Least term of a correct row."""
    clip_wrong: float = Field(-1.0, le=0)
    """Least term of a wrong row."""
    tolerance: float = Field(0.1, ge=0)
    """Linear shape: share above the history without a penalty."""


class HapoLinear(Hapo):
    """HAPO with the linear curve."""

    shape: Literal["cosine", "linear"] = "linear"
    """The curve."""


class AdaptThink(Params):
    """Reward of answering without thinking."""

    delta: float = Field(0.05, ge=0)
    """Added to a row that did not think."""


class LengthControlled(Params):
    """A frozen length bias of a judge, fitted offline per judge and task."""

    phi: float
    """The bias: weight of tanh((reference length - length) / scale_len) in logits."""
    scale_len: float = Field(gt=0)
    """Standard deviation of the length gaps of the fit, in the unit of the lengths."""
    reference_len: float | None = Field(None, ge=0)
    """The reference length; none reads `reference_lengths` row by row."""
    low: float = 0.0
    """Lowest score of the judge."""
    high: float = 1.0
    """Highest score of the judge."""

    def also_needs(self) -> frozenset[str]:
        return frozenset() if self.reference_len is not None else frozenset({"reference_lengths"})


_TARGET = frozenset({"lengths", "correct", "target_lengths"})
_L1 = "L1, arXiv:2503.04697"

_HAPO = Method(
    name="hapo",
    summary="Distance to the prompt's shortest correct answer so far, kept in a history.",
    kind="add",
    function=_MODULE + "hapo",
    params=Hapo,
    needs=frozenset({"lengths", "correct", "history_lengths"}),
    uses=frozenset({"group_ids"}),
    range="[clip_correct, w] correct, [clip_wrong, 0] wrong",
    gate="wrong rows: at most 0",
    paper="HAPO",
    parity="HAPO",
)

METHODS = (
    Method(
        name="lcpo_exact",
        summary="Penalty proportional to the distance to a given length.",
        kind="add",
        function=_MODULE + "lcpo_exact",
        params=LcpoExact,
        needs=frozenset({"lengths", "target_lengths"}),
        range="(-inf, 0], or [-cap, 0]",
        paper=_L1,
        parity="L1; prime-rl 2c877c1a8 with cap: 1",
    ),
    Method(
        name="lcpo_max",
        summary="Scales correct rows down as they approach and exceed a given maximum.",
        kind="multiply",
        function=_MODULE + "lcpo_max",
        params=LcpoMax,
        needs=_TARGET,
        range="[0, 1]",
        gate="correct",
        paper=_L1,
        parity="prime-rl 2c877c1a8",
    ),
    Method(
        name="lcpo_max_code",
        summary="The maximum variant of L1's released code, with half the paper's slope.",
        kind="total",
        function=_MODULE + "lcpo_max_code",
        params=LcpoMaxCode,
        needs=_TARGET,
        range="[0, 1]; [0, 2] when added",
        gate="correct",
        paper=_L1,
        parity="L1's code",
    ),
    Method(
        name="lcpo_clip",
        summary="Counts correct rows only up to a given length.",
        kind="multiply",
        function=_MODULE + "lcpo_clip",
        needs=_TARGET,
        range="{0, 1}",
        gate="correct",
        paper="INTELLECT-2",
        parity="prime-rl 2c877c1a8",
    ),
    _HAPO,
    replace(_HAPO, name="hapo_cosine"),
    replace(_HAPO, name="hapo_linear", params=HapoLinear),
    Method(
        name="adaptthink",
        summary="Correctness above the reference's accuracy, and a bonus for not thinking.",
        kind="total",
        function=_MODULE + "adaptthink",
        params=AdaptThink,
        needs=frozenset({"correct", "no_think", "reference_accuracy"}),
        range="[-1, 1 + delta]",
        paper="AdaptThink",
        parity="AdaptThink",
    ),
    Method(
        name="length_controlled",
        summary="Subtracts a judge's estimated length bias from its score.",
        kind="add",
        function=_MODULE + "length_controlled",
        params=LengthControlled,
        needs=frozenset({"lengths", "quality"}),
        uses=frozenset({"reference_lengths"}),
        range="[low - score, high - score]",
        paper="Length-controlled AlpacaEval, arXiv:2404.04475",
    ),
    Method(
        name="length_controlled_winrate",
        summary="Win rate at equal lengths, from a logistic fit on the length gap.",
        kind="measure",
        function=_MODULE + "length_controlled_winrate",
        needs=frozenset({"preference", "baseline_lengths", "lengths"}),
        range="[0, 100] twice: raw and length-controlled",
        paper="Length-controlled AlpacaEval, arXiv:2404.04475",
        parity="alpaca_eval to half a point",
    ),
)
