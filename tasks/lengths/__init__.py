"""Length, verbosity and repetition shaping: one pure function per method.

The formulas run on NumPy arrays or torch tensors, as given. Importing the package loads neither.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from oyer.tasks.lengths.dispatch import compute
    from oyer.tasks.lengths.inputs import Inputs, PackedTokens, Term
    from oyer.tasks.lengths.methods.repetition import pack
    from oyer.tasks.lengths.vectors import evaluate

__all__ = ["Inputs", "PackedTokens", "Term", "compute", "evaluate", "pack"]

_HOMES = {
    "Inputs": "inputs",
    "PackedTokens": "inputs",
    "Term": "inputs",
    "compute": "dispatch",
    "evaluate": "vectors",
    "pack": "methods.repetition",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
