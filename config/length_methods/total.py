"""Declarations of methods that make the whole reward from one row's length."""

from typing import Self

from pydantic import Field, model_validator

from oyer.config.length_methods.method import Method, Params

_MODULE = "oyer.tasks.lengths.methods.total:"


class Cosine(Params):
    """The reward at both ends of the two branches, named by where it applies."""

    short_correct: float = 1.0
    """Reward of a correct answer of length 0."""
    long_correct: float = 0.5
    """Reward of a correct answer of `max_len`."""
    short_wrong: float = -1.0
    """Reward of a wrong answer of length 0."""
    long_wrong: float = -0.5
    """Reward of a wrong answer of `max_len`."""
    max_len: int = Field(14336, gt=0)
    """Length at which both branches end."""
    clamp: bool = True
    """Hold the end values beyond `max_len`; off, the cosine comes back up (open-r1)."""
    exceed_length: float | None = None
    """Reward of any answer that reaches `max_len - max_len_margin`, correct or not."""
    max_len_margin: int = Field(0, ge=0)
    """How far before `max_len` an answer counts as exceeding."""
    repetition_max_penalty: float = Field(0.0, le=0)
    """Added to wrong answers in proportion to repeated n-grams."""
    repetition_ngram_size: int = Field(40, ge=1)
    """Size of those n-grams."""

    def also_needs(self) -> frozenset[str]:
        return frozenset({"token_ids|texts"} if self.repetition_max_penalty else ())


class LengthScaledRisk(Params):
    """A quadratic price of length."""

    risk_factor: float = Field(0.5, ge=0, le=1)
    """Reward of an empty correct answer, `k`."""
    max_len: int = Field(14336, gt=0)
    """Length at which a correct answer earns nothing."""
    exceed_length: float | None = None
    """Reward of any answer that reaches `max_len - max_len_margin`, correct or not."""
    max_len_margin: int = Field(0, ge=0)
    """How far before `max_len` an answer counts as exceeding."""


class Phi4LengthAware(Params):
    """Two cosine branches that begin at control lengths."""

    max_len: int = Field(31744, gt=0)
    """Length at which a correct answer earns its least."""
    pos_control: int = Field(25600, ge=0)
    """Length up to which a correct answer earns 1."""
    neg_control: int = Field(3702, gt=0)
    """Length from which a wrong answer costs its least."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.pos_control >= self.max_len:
            raise ValueError("pos_control: below `max_len`")
        return self


class EffortShaping(Params):
    """A bonus below an upper bound and a penalty above it."""

    low_weight: float = Field(1.0, ge=0)
    """Steepness `w`."""
    low_penalty: float = Field(1.0, ge=0)
    """Weight of the part above `low_ub`."""
    low_ub: int = Field(64000, gt=0)
    """Length without bonus or penalty."""


METHODS = (
    Method(
        name="cosine",
        summary="Cosine from the short to the long reward, separately for correct and wrong.",
        kind="total",
        function=_MODULE + "cosine",
        params=Cosine,
        needs=frozenset({"lengths", "correct"}),
        uses=frozenset({"token_ids", "texts"}),
        range="between the four end values; exceed_length",
        gate="two branches",
        paper="Demystifying Long CoT, arXiv:2502.03373",
        parity="TRL; open-r1, ms-swift with clamp: false; the paper's code with exceed_length",
    ),
    Method(
        name="length_scaled_risk",
        summary="Penalty quadratic in length for correct answers, linear for wrong ones.",
        kind="total",
        function=_MODULE + "length_scaled_risk",
        params=LengthScaledRisk,
        needs=frozenset({"lengths", "correct"}),
        range="[-1, 1]",
        gate="two branches",
        paper="code of arXiv:2502.03373",
        parity="demystify-long-cot",
    ),
    Method(
        name="phi4_length_aware",
        summary="Cosine schedules that start at control lengths.",
        kind="total",
        function=_MODULE + "phi4_length_aware",
        params=Phi4LengthAware,
        needs=frozenset({"lengths", "correct"}),
        range="[0.5, 1] correct, [-1, -0.5] wrong",
        gate="two branches",
        paper="Phi-4-reasoning, arXiv:2504.21318",
    ),
    Method(
        name="effort_shaping",
        summary="Bonus proportional to the reward below a bound, penalty above it.",
        kind="total",
        function=_MODULE + "effort_shaping",
        params=EffortShaping,
        needs=frozenset({"lengths", "base_reward"}),
        range="(-inf, 2 r]",
        gate="the bonus is in proportion to the reward",
        paper="NeMo-RL",
        parity="NeMo-RL",
    ),
)
