"""The declaration of a length method; does not import torch."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

Kind = Literal["add", "multiply", "total", "advantage", "mask", "per_token", "measure"]
"""The kind of a method's values.

add: a signed term for the reward. multiply: a factor for it. total: the reward itself.
advantage: one advantage a row. mask: 1 keeps the row in the loss, 0 drops it.
per_token: one term a token. measure: a quantity that shapes nothing by itself.
"""


class Params(BaseModel):
    """Parameters of a length method: unknown keys are refused, values are immutable."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        defer_build=True,
    )

    def also_needs(self) -> frozenset[str]:
        """Return the fields of `Inputs` that these values require beyond `Method.needs`."""
        return frozenset()


class NoParams(Params):
    """A method without parameters."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """One entry of the catalogue."""

    name: str
    """The name in a configuration."""
    summary: str
    """One line for a list of methods."""
    kind: Kind
    """See `Kind`; the `Term` of a call has another kind if parameters change it."""
    function: str
    """`module:function`, loaded by `load`; it takes `needs`, `uses` and `params` by keyword."""
    params: type[Params] = NoParams
    """Its parameters, documented, with the literature's defaults."""
    needs: frozenset[str] = frozenset()
    """Required fields of `Inputs`: `a|b` is either, `a>=0` only bounds it."""
    uses: frozenset[str] = frozenset()
    """Optional fields of `Inputs`."""
    range: str
    """The values that it can return."""
    gate: str = "none"
    """The rows that it acts on."""
    paper: str
    """Source of the formula."""
    parity: str = "none"
    """Published code whose results it reproduces, as tested by vectors."""

    @property
    def columns(self) -> frozenset[str]:
        """The fields of `Inputs` that the function takes, required or not."""
        taken = (need.split("|") for need in self.needs if ">=" not in need)
        return frozenset(name for either in taken for name in either) | self.uses

    def load(self) -> Callable[..., Any]:
        """Import the function, and NumPy with it."""
        module, _, name = self.function.partition(":")
        function: Callable[..., Any] = getattr(import_module(module), name)
        return function
