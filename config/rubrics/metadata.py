"""Placeholders of rubrics that a rollout's metadata fill, e.g. `{metadata.topic}`; pure."""

from collections.abc import Iterable, Mapping
from typing import Any

from oyer.protocol.content import plain_json

_START = "metadata."


class MissingMetadata(ValueError):
    """A rollout lacks a value that a rubric shows; the message starts with its place."""


def is_metadata(placeholder: str) -> bool:
    """Whether a placeholder names a value of the metadata."""
    return placeholder.startswith(_START)


def metadata_texts(places: Iterable[str], metadata: Mapping[str, Any]) -> dict[str, str]:
    """Return the text of each place: a string as it is, any other value as JSON.

    Args:
        places: e.g. `metadata.topic`; `metadata.task.topic` is a key of the mapping `task`.

    Raises:
        MissingMetadata: a value is missing or null.
    """
    return {place: _text(place, metadata) for place in places}


def _text(place: str, metadata: Mapping[str, Any]) -> str:
    value: Any = metadata
    for key in place.removeprefix(_START).split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    if value is None:
        raise MissingMetadata(
            f"{place}: is missing, and the rubric shows it; give the rollout this key, or remove"
            f" {{{place}}} from the rubric"
        )
    return value if isinstance(value, str) else plain_json(value)
