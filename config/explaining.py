"""Turns pydantic's validation errors into `key.path: what is wrong`, in terms of the configuration."""

import re
from collections.abc import Iterable
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

_MAX_PROBLEMS = 20
"""Most problems in one message."""

_MAX_PART_CHARS = 500
"""Longest key and longest explanation in a message, in characters."""

_TEXTS = {
    "missing": "is missing, and it is required",
    "model_type": "must be a section of keys, e.g. `{key: value}`",
    "dict_type": "must be a mapping of names to values, e.g. `{name: value}`",
    "tuple_type": "must be a list, e.g. `[a, b]`",
    "list_type": "must be a list, e.g. `[a, b]`",
    "string_type": "must be text; put quotes around it",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "string_pattern_mismatch": "may hold only letters, digits, `_`, `.` and `-`",
}
"""Our explanation for each of pydantic's error types."""

_GENERIC = re.compile(r"^(?:Input|Value|String|Tuple|List|Dictionary) should ")
"""The start of pydantic's messages about a value."""

_INNER_PATH = re.compile(r"([a-z_]+)((?:\.[\w-]+|\[\d+\])*): ")
"""The key path at the start of a message of our own validators."""

_KEY_BY_VALUE = "put the key into an environment variable, and name that in `api_key_env`"

_HINTS = {
    "api_key": _KEY_BY_VALUE,
    "apikey": _KEY_BY_VALUE,
    "key": _KEY_BY_VALUE,
    "token": _KEY_BY_VALUE,
}
"""The fix for unknown keys whose intent is clear."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Suggest similar known names, e.g. "did you mean `judges`?"; "" if none is similar."""
    import difflib

    by_lower = {name.lower(): name for name in known}
    near = difflib.get_close_matches(word.lower(), by_lower, n=3, cutoff=0.6)
    return f"did you mean {' or '.join(f'`{by_lower[name]}`' for name in near)}?" if near else ""


def suggestion_or_known(word: str, known: Iterable[str]) -> str:
    """Suggest similar names, or list all names if none is similar."""
    names = sorted(known)
    return did_you_mean(word, names) or f"known: {', '.join(names) or 'none'}"


def explain(error: ValidationError, model: type[BaseModel] | None = None) -> str:
    """Write a validation error as `key.path: what is wrong`, separated by semicolons.

    Args:
        model: the validated model; with it, the message suggests a known key for an unknown one.
    """
    items = error.errors(include_url=False)
    lines = []
    for item in items[:_MAX_PROBLEMS]:
        loc = item["loc"]
        where = _path(loc)
        what = _cut(_what(item, _model_at(model, loc[:-1])))
        where, what = _joined(where, loc, what)
        lines.append(f"{where}: {what}" if where else what)
    if len(items) > len(lines):
        lines.append(f"and {len(items) - len(lines)} more")
    return "; ".join(lines)


def _path(loc: tuple[int | str, ...]) -> str:
    parts = (f"[{part}]" if isinstance(part, int) else f".{_cut(str(part))}" for part in loc)
    return "".join(parts).lstrip(".")


def _what(item: Any, around: type[BaseModel] | None) -> str:
    """Explain one problem; the value, which may be a secret, is never shown."""
    kind, value = item["type"], item.get("input")
    if kind == "extra_forbidden":
        name = str(item["loc"][-1])
        hint = did_you_mean(name, around.model_fields if around else ())
        return f"unknown key; {_HINTS.get(name.lower()) or hint or 'check the spelling'}"
    if kind == "literal_error":
        expected = str(item["ctx"]["expected"])
        allowed = re.findall(r"'([^']*)'", expected)
        hint = did_you_mean(value, allowed) if isinstance(value, str) else ""
        return f"must be {expected}" + (f"; {hint}" if hint else "")
    if kind in _TEXTS:
        return _TEXTS[kind]
    return _GENERIC.sub("must ", str(item["msg"]).removeprefix("Value error, "))


def _joined(where: str, loc: tuple[int | str, ...], what: str) -> tuple[str, str]:
    """Join the error's path with the path at the start of a validator's message."""
    inner = _INNER_PATH.match(what)
    if not where or inner is None:
        return where, what
    names = [part for part in loc if isinstance(part, str)]
    rest = what[inner.end() :]
    if names and inner[1] == names[-1]:
        return where + inner[2], rest
    return f"{where}.{inner[1]}{inner[2]}", rest


def _model_at(model: type[BaseModel] | None, loc: tuple[int | str, ...]) -> type[BaseModel] | None:
    """Return the model that validated the value at a path."""
    for part in loc:
        if model is None or isinstance(part, int):
            continue
        field = model.model_fields.get(part)
        if field is not None:
            model = _model_in(field.annotation)
    return model


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for inner in get_args(annotation) if (found := _model_in(inner))), None)


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_PART_CHARS else f"{text[:_MAX_PART_CHARS]}…"
