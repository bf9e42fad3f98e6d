"""The array functions that the formulas use, on NumPy or torch, by the Python array API.

A formula is written once. It runs on the arrays that it is given: NumPy arrays on a CPU, or torch
tensors on their device.
"""

from typing import Any

import numpy as np
from array_api_compat import array_namespace, device, is_torch_array
from numpy.typing import NDArray

Array = Any
"""A NumPy array or a torch tensor; all arrays of one call are of one kind and on one device."""

__all__ = [
    "Array",
    "bound",
    "device",
    "double",
    "filled",
    "is_torch_array",
    "isnan",
    "namespace",
    "select",
    "sigmoid",
    "to_kind_of",
    "to_numpy",
    "without_nan",
]


def namespace(*arrays: Array) -> Any:
    """Return the array API of these arrays."""
    return array_namespace(*arrays)


def double(values: Array) -> Array:
    """The values as float64."""
    xp = array_namespace(values)
    return xp.astype(values, xp.float64, copy=False)


def bound(values: Array, min: float | None = None, max: float | None = None) -> Array:
    """Bound values; NaN stays."""
    # Both kinds of array have the method; the functions of the array API copy by mask.
    return values.clip(min=min, max=max)


def select(mask: Array, chosen: Array, other: Array) -> Array:
    """`chosen` where the mask is true, and `other` elsewhere; one of both may be a number."""
    return array_namespace(mask).where(mask, chosen, other)


def isnan(values: Array) -> Array:
    """bool: the value is NaN."""
    return array_namespace(values).isnan(values)


def without_nan(values: Array) -> Array:
    """The values, with 0 for NaN."""
    return select(isnan(values), 0.0, values)


def sigmoid(values: Array) -> Array:
    """`1 / (1 + exp(-x))`, without overflow."""
    return 0.5 + 0.5 * array_namespace(values).tanh(0.5 * values)


def filled(like: Array, value: float) -> Array:
    """float64 of the shape and on the device of `like`, `value` everywhere."""
    xp = array_namespace(like)
    return xp.full_like(like, value, dtype=xp.float64)


def to_numpy(values: Array) -> NDArray[Any]:
    """The values as a NumPy array on the CPU."""
    return values.cpu().numpy() if is_torch_array(values) else np.asarray(values)


def to_kind_of(values: Array, like: Array) -> Array:
    """The values as an array of the kind of `like`, on its device."""
    if not is_torch_array(like):
        return to_numpy(values)
    import torch

    return torch.as_tensor(values).to(like.device)
