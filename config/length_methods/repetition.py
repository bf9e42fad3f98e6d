"""Declarations of methods that find repeated n-grams."""

from dataclasses import replace
from typing import Literal

from pydantic import Field

from oyer.config.length_methods.method import Method, Params

_MODULE = "oyer.tasks.lengths.methods.repetition:"

Unit = Literal["token_ids", "words", "chars"]
"""The units of an n-gram: token ids, lower-cased words between white space, characters."""

MAX_WINDOWS = 2**26
"""N-grams sorted at once: 512 MiB of keys."""


class _Counting(Params):
    ngram_size: int = Field(3, ge=1)
    """Units in an n-gram."""
    max_windows: int = Field(MAX_WINDOWS, ge=1)
    """N-grams that are sorted at once; halved when memory runs out."""


class Repetition(_Counting):
    """Share of n-grams that were seen before."""

    max_penalty: float = Field(-1.0, le=0)
    """Penalty of a text that only repeats itself."""
    unit: Unit | None = None
    """The units of an n-gram; null means token ids if given, else words."""
    dead_zone: float = Field(0.0, ge=0, lt=1)
    """Repeated share without a penalty; ordinary text has some."""

    def also_needs(self) -> frozenset[str]:
        if self.unit is None:
            return frozenset({"token_ids|texts"})
        return frozenset({"token_ids" if self.unit == "token_ids" else "texts"})


class RepetitionDense(_Counting):
    """A penalty on every token of a repeated n-gram."""

    ngram_size: int = Field(40, ge=1)
    """Units in an n-gram."""
    penalty: float = Field(-0.05, le=0)
    """Penalty of such a token; it does not add up."""
    only_start: bool = False
    """Only the first n-gram of each unbroken run of repeated ones."""


class RepetitionOnset(Params):
    """LASER's detector."""

    ngram_size: int = Field(40, ge=1)
    """Units in an n-gram."""


class NgramLoop(Params):
    """GRPO-LEAD's detector."""

    max_ngram: int = Field(30, ge=1)
    """Largest n-gram tried."""


_REPETITION = Method(
    name="repetition",
    summary="Penalty proportional to the share of repeated n-grams.",
    kind="add",
    function=_MODULE + "repetition",
    params=Repetition,
    uses=frozenset({"token_ids", "texts"}),
    range="[max_penalty, 0]",
    paper="Demystifying Long CoT, arXiv:2502.03373",
    parity="TRL (token ids); open-r1, ms-swift, ROLL (words)",
)

METHODS = (
    _REPETITION,
    replace(_REPETITION, name="repetition_penalty"),
    Method(
        name="repetition_dense",
        summary="A penalty on every token of an n-gram that was seen before.",
        kind="per_token",
        function=_MODULE + "repetition_dense",
        params=RepetitionDense,
        needs=frozenset({"token_ids"}),
        range="{penalty, 0}",
        paper="Demystifying Long CoT, arXiv:2502.03373",
        parity="demystify-long-cot",
    ),
    Method(
        name="laser_ngram_repetition_onset",
        summary="Position at which a row starts to repeat itself, or its length.",
        kind="measure",
        function=_MODULE + "repetition_onset",
        params=RepetitionOnset,
        needs=frozenset({"token_ids"}),
        range="[0, length]",
        paper="LASER-DE, arXiv:2505.15612",
        parity="Laser, given lists",
    ),
    Method(
        name="consecutive_ngram_loop",
        summary="Longest run of consecutive repeats of one n-gram, and the n-gram's size.",
        kind="measure",
        function=_MODULE + "consecutive_ngram_loop",
        params=NgramLoop,
        needs=frozenset({"texts"}),
        range="[repeats, n]; zeros where nothing repeats",
        paper="GRPO-LEAD, arXiv:2504.09696",
        parity="GRPO-LEAD",
    ),
)
