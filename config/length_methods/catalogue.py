"""The catalogue of length methods, for configuration, lists and checks; does not import torch."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError

from oyer.config.explaining import explain, suggestion_or_known
from oyer.config.length_methods import (
    absolute,
    advantage,
    correct,
    group,
    laser,
    repetition,
    target,
    total,
)
from oyer.config.length_methods.method import Method, Params
from oyer.protocol.errors import InvalidConfig

METHODS: Mapping[str, Method] = MappingProxyType(
    {
        method.name: method
        for family in (
            absolute,
            total,
            group,
            correct,
            target,
            laser,
            repetition,
            advantage,
        )
        for method in family.METHODS
    }
)
"""Every length method by name."""


def find(method: str) -> Method:
    """Return a method by name.

    Raises:
        InvalidConfig: there is no such method; the message lists similar names, or all.
    """
    if method in METHODS:
        return METHODS[method]
    hint = suggestion_or_known(method, METHODS)
    raise InvalidConfig(f"length.method: {method!r} is not a length method; {hint}")


def validate(method: Method, params: Mapping[str, Any]) -> Params:
    """Check parameters against the method's model.

    Raises:
        InvalidConfig: the message names every wrong key.
    """
    try:
        return method.params.model_validate(dict(params))
    except ValidationError as error:
        known = ", ".join(method.params.model_fields) or "none"
        raise InvalidConfig(
            f"length method {method.name}: {explain(error, method.params)} (its parameters: {known})"
        ) from error


def resolve(method: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the validated parameters of a method, with defaults, as JSON values.

    Raises:
        InvalidConfig: the method is unknown or a measure, which shapes no reward, or a parameter
            is wrong.
    """
    found = find(method)
    if found.kind == "measure":
        raise InvalidConfig(
            f"length.method: {method!r} measures and shapes no reward; "
            "`oyer length list` has those that do"
        )
    return validate(found, params).model_dump(mode="json")


def needs(method: str, params: Mapping[str, Any]) -> frozenset[str]:
    """Return the fields of `Inputs` that the method requires with these parameters.

    Raises:
        InvalidConfig: the method is unknown, or a parameter is wrong.
    """
    found = find(method)
    return found.needs | validate(found, params).also_needs()
