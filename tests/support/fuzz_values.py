"""Strategies for invalid values, and for valid text with small errors."""

import json
import math
import sys
from collections import OrderedDict, UserString
from collections.abc import Callable
from decimal import Decimal
from enum import IntEnum, StrEnum
from fractions import Fraction
from typing import Any

import numpy as np
from hypothesis import strategies as st

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd


class Text(str):
    """A subclass that a library may use for its own strings."""

    __slots__ = ()


class Whole(int):
    """As above, for numbers."""

    __slots__ = ()


class Level(IntEnum):
    """A number with a name."""

    LOW = 1
    HIGH = 10


class Word(StrEnum):
    """A text with a name."""

    USER = "user"


class Unprintable:
    """Cannot even be shown."""

    def __repr__(self) -> str:
        raise RuntimeError("no repr")


def nested(depth: int, leaf: Any = 1) -> Any:
    """Nest a value in lists and mappings by turns."""
    value = leaf
    for level in range(depth):
        value = {"k": value} if level % 2 else [value]
    return value


def _circular() -> Any:
    value: list[Any] = []
    value.append(value)
    return value


def _circular_dict() -> Any:
    value: dict[str, Any] = {}
    value["self"] = [value]
    return value


def one_of_these(values: list[Any]) -> st.SearchStrategy[Any]:
    """Draw by place, since hypothesis shows what it samples from, and not all can be shown."""
    return st.integers(0, len(values) - 1).map(lambda i: values[i])


any_text = st.text(st.characters(exclude_categories=()), max_size=30)
"""Text of every code point: NUL, lone surrogates and private ones too."""

_NUMBERS: list[Any] = [
    True,
    10**400,
    -(10**400),
    10**5000,
    2**31,
    2**63,
    -(2**63) - 1,
    1e308,
    5e-324,
    -0.0,
    math.nan,
    math.inf,
    Whole(3),
    Level.HIGH,
    Decimal("1.5"),
    Decimal("NaN"),
    Fraction(1, 3),
    Fraction(10**5000),
    1j,
    np.int8(-128),
    np.uint64(2**64 - 1),
    np.float16(np.inf),
    np.float32(0.1),
    np.float64(math.nan),
    np.longdouble("1e4000"),
    np.bool_(True),
    np.array(3),
    np.array([1.0, math.nan]),
]

numbers = st.one_of(st.integers(), st.floats(), one_of_these(_NUMBERS))

_ODDITIES: list[Any] = [
    None,
    "",
    b"bytes",
    bytearray(b"x"),
    Text("sub"),
    UserString("user"),
    Word.USER,
    "\ud800",
    "\0",
    "a" * 5000,
    np.str_("np"),
    np.datetime64("2026-01-31"),
    np.zeros((2, 2), np.int64),
    np.array([1, 2, 3]),
    np.array([], dtype=object),
    range(3),
    range(2**40),
    {1, 2},
    frozenset(),
    (1, "a"),
    {"k": {1: 2}},
    {("a",): 1},
    {None: 1, 2: 3},
    OrderedDict(a=1),
    {"\ud800": 1},
    {"k": "\udfff"},
    {"k": math.nan},
    {"k": 10**5000},
    {"k": 10**400},
    {"k": b"x"},
    nested(40),
    nested(63),
    nested(70),
    nested(300),
    nested(100_000),
    _circular(),
    _circular_dict(),
    object(),
    Unprintable(),
    Ellipsis,
    int,
    print,
]

oddities = one_of_these(_ODDITIES)

json_like = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), any_text),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(any_text, inner, max_size=4)
    ),
    max_leaves=8,
)

anything = st.one_of(numbers, oddities, any_text, json_like)
"""Whatever Python has."""


@st.composite
def mostly(
    draw: Callable[..., Any],
    good: st.SearchStrategy[Any],
    bad: st.SearchStrategy[Any] | None = None,
) -> Any:
    """Nine times in ten what is expected, so that what lies behind is reached as well."""
    return draw((anything if bad is None else bad) if draw(st.integers(0, 9)) == 7 else good)


_BITS = st.lists(
    st.tuples(st.sampled_from(["flip", "cut", "drop", "add", "twice"]), st.integers(0, 10**6)),
    min_size=1,
    max_size=4,
)


@st.composite
def damaged(draw: Callable[..., Any], blobs: st.SearchStrategy[bytes]) -> bytes:
    """Bytes in which something was flipped, cut off, dropped, put in or doubled."""
    blob = bytearray(draw(blobs))
    for kind, number in draw(_BITS):
        at = number % (len(blob) + 1)
        if kind == "flip" and at < len(blob):
            blob[at] ^= 1 << number % 8
        elif kind == "cut":
            del blob[at:]
        elif kind == "drop":
            del blob[at : at + 1 + number % 7]
        elif kind == "add":
            blob[at:at] = draw(st.binary(min_size=1, max_size=8))
        elif kind == "twice":
            blob[at:at] = blob[: 1 + number % 40]
    return bytes(blob)


@st.composite
def mutated(draw: Callable[..., Any], value: Any, bad: Any = json_like) -> Any:
    """A copy of a JSON value in which a few places hold something else."""
    copy = json.loads(json.dumps(value))
    for _ in range(draw(st.integers(1, 3))):
        copy = _mutate(draw, copy, bad)
    return copy


def _mutate(draw: Callable[..., Any], value: Any, bad: Any) -> Any:
    if isinstance(value, dict) and value and draw(st.integers(0, 9)):
        key = draw(st.sampled_from(sorted(value, key=str)))
        what = draw(st.sampled_from(["in", "in", "in", "drop", "rename", "add"]))
        if what == "in":
            value[key] = _mutate(draw, value[key], bad)
        elif what == "drop":
            del value[key]
        elif what == "rename":
            value[draw(any_text)] = value.pop(key)
        else:
            value[draw(any_text)] = draw(bad)
        return value
    if isinstance(value, list) and value and draw(st.integers(0, 9)):
        at = draw(st.integers(0, len(value) - 1))
        value[at] = _mutate(draw, value[at], bad)
        return value
    return draw(bad)


def bomb(size: int) -> bytes:
    """Make a small payload of version 1 that unpacks to `size` bytes."""
    return b"oyer1\n" + zstd.compress(b" " * size, 1)
