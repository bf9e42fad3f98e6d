"""Stores each image of chat messages once: the messages hold a reference to its text."""

import json
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

REFERENCE = "oyer-image:"
"""Prefix of the hash that stands for an image in recorded messages."""

_DATA_URL = "data:"

_MIN_CHARS = 200
"""A shorter URL is left in its place; it is not much longer than a reference."""


def without_images(value: Any, images: dict[str, str]) -> Any:
    """Replace the `data:` URLs in messages by references, and add them to `images` by hash."""
    if isinstance(value, str):
        if len(value) < _MIN_CHARS or not value.startswith(_DATA_URL):
            return value
        digest = sha256(value.encode("utf-8", "replace")).hexdigest()
        images[digest] = value
        return f"{REFERENCE}{digest}"
    if isinstance(value, Mapping):
        return {key: without_images(inner, images) for key, inner in value.items()}
    if isinstance(value, list):
        return [without_images(inner, images) for inner in value]
    return value


def with_images(body: str | None, images: Mapping[str, str]) -> str | None:
    """Put images back into recorded messages.

    Args:
        body: the messages as JSON.
        images: by hash.
    """
    for digest, url in images.items():
        if body is not None:
            body = body.replace(f'"{REFERENCE}{digest}"', json.dumps(url))
    return body
