"""Declarations of LASER's methods."""

from dataclasses import replace
from typing import Literal

from pydantic import Field

from oyer.config.length_methods.method import Method, Params

_MODULE = "oyer.tasks.lengths.methods.laser:"

LaserType = Literal["reward", "penalty", "hybrid"]
"""Correct rows: reward those within the target, charge those beyond it, or both."""


class Laser(Params):
    """A step reward at a target length."""

    target_length: int | None = Field(None, gt=0)
    """The target; none reads `target_lengths` row by row."""
    alpha: float = Field(0.5, ge=0)
    """Size of the step."""
    type: LaserType = "reward"
    """Which side of the target counts."""

    def also_needs(self) -> frozenset[str]:
        return frozenset() if self.target_length else frozenset({"target_lengths"})


class BandTargets(Params):
    """Targets by the group's pass rate."""

    low: float | None = Field(default=None, gt=0)
    """Target of hard groups; none is the longest row of the batch."""
    medium: float | None = Field(default=None, gt=0)
    """Target of groups in between; none is the longest row of the batch."""
    high: float | None = Field(default=None, gt=0)
    """Target of easy groups; none is the longest row of the batch."""


class LaserD(Params):
    """LASER with a target that depends on difficulty."""

    target_lengths: BandTargets = Field(default_factory=BandTargets)
    """Targets per band; the caller keeps and re-estimates them."""
    alpha: float = Field(0.5, ge=0)
    """Size of the step."""
    type: LaserType = "reward"
    """Which side of the target counts."""
    bands: tuple[float, float] = (1 / 3, 2 / 3)
    """Pass rates from which a group is medium and easy."""


class LaserChooseTarget(Params):
    """How LASER-D re-estimates its targets."""

    n_rollout: int = Field(8, ge=1)
    """Group size."""
    expected_n_correct: float = Field(1.0, gt=0)
    """Expected number of correct answers within the target."""
    round_method: Literal["floor", "ceil", "round", "none"] = "floor"
    """How that number is rounded."""


class LaserClipRatioRebalance(Params):
    """A helper of the LASER repository that was not published."""

    acc_weight: float = Field(0.9, gt=0, lt=1)
    """Weight of accuracy against the clip ratio."""
    r_c: float = Field(1.0, gt=0)
    """Score of a correct row."""
    r_w: float = -0.5
    """Score of a wrong row."""


_LASER_D = Method(
    name="laser_d",
    summary="LASER's step reward with a target that depends on the group's pass rate.",
    kind="add",
    function=_MODULE + "laser_d",
    params=LaserD,
    needs=frozenset({"lengths", "correct", "group_ids"}),
    range="{-alpha, 0, alpha}",
    gate="correct",
    paper="LASER, arXiv:2505.15612",
    parity="Laser",
)

METHODS = (
    Method(
        name="laser",
        summary="A step reward for correct rows within a target length.",
        kind="add",
        function=_MODULE + "laser",
        params=Laser,
        needs=frozenset({"lengths", "correct"}),
        uses=frozenset({"target_lengths"}),
        range="{-alpha, 0, alpha}",
        gate="correct",
        paper="LASER, arXiv:2505.15612",
        parity="Laser",
    ),
    _LASER_D,
    replace(
        _LASER_D,
        name="laser_de",
        summary="LASER-D that also rewards wrong rows for exploring beyond the target.",
        function=_MODULE + "laser_de",
        uses=frozenset({"repetitive"}),
        gate="correct; wrong rows beyond the target that do not repeat",
    ),
    Method(
        name="laser_choose_target",
        summary="The smallest threshold within which enough correct answers are expected.",
        kind="measure",
        function=_MODULE + "laser_choose_target",
        params=LaserChooseTarget,
        needs=frozenset({"thresholds", "coverage", "max_response_length"}),
        range="a threshold, or max_response_length, per band",
        paper="LASER, arXiv:2505.15612",
        parity="Laser",
    ),
    Method(
        name="laser_clip_ratio_rebalance",
        summary="Scales scores so that accuracy keeps its weight against the clip ratio.",
        kind="measure",
        function=_MODULE + "laser_clip_ratio_rebalance",
        params=LaserClipRatioRebalance,
        needs=frozenset({"base_reward"}),
        range="unbounded",
        paper="unpublished helper of LASER",
        parity="Laser",
    ),
)
