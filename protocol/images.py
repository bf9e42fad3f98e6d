"""Finds the images in chat messages, and encodes image objects as `data:` URLs."""

import base64
import io
from collections.abc import Iterator, Mapping
from typing import Any

_SIGNATURES = (
    (b"\x89PNG", "png"),
    (b"\xff\xd8\xff", "jpeg"),
    (b"GIF8", "gif"),
    (b"RIFF", "webp"),
)
"""First bytes of the image formats that judges' models accept."""

_URLS = ("data:image/", "https://", "http://")

_KEYS = ("image_url", "image", "source", "input_image")
"""Keys of a content part that hold its image."""


def image_url(part: Any) -> str | None:
    """Return the URL of a content part's image, or None if it has no image that can be sent.

    Args:
        part: OpenAI's `image_url` and `input_image`, Anthropic's `source`, an `image` with a URL,
            base64 bytes or a Pillow image, or a Pillow image itself.
    """
    if not isinstance(part, Mapping):
        return _encoded(part)
    kind = part.get("type")
    if kind is not None and not str(kind).removeprefix("input_").startswith("image"):
        return None
    found = next((part[key] for key in _KEYS if part.get(key) is not None), None)
    if isinstance(found, Mapping):
        found = found.get("url") or _source(found)
    return found if isinstance(found, str) and found.startswith(_URLS) else _encoded(found)


def is_image(part: Any) -> bool:
    """Whether a content part stands for an image, also for one that cannot be sent."""
    if not isinstance(part, Mapping):
        return False
    kind = part.get("type")
    if kind is None:
        return any(part.get(key) is not None for key in ("image_url", "image", "input_image"))
    return str(kind).removeprefix("input_").startswith("image")


def images_in(messages: Any) -> Iterator[str]:
    """Yield the URL of each image in chat messages, in order; nothing for a text."""
    if isinstance(messages, str):
        return
    for message in messages:
        content = message.get("content") if isinstance(message, Mapping) else None
        for part in content if isinstance(content, (list, tuple)) else ():
            url = image_url(part)
            if url is not None:
                yield url


def unusable_image(messages: Any) -> str | None:
    """Return the place of the first image that `image_url` cannot read, e.g. `[0].content[1]`."""
    for i, message in enumerate(() if isinstance(messages, str) else messages):
        content = message.get("content") if isinstance(message, Mapping) else None
        for k, part in enumerate(content if isinstance(content, (list, tuple)) else ()):
            if is_image(part) and image_url(part) is None:
                return f"[{i}].content[{k}]"
    return None


def _source(image: Mapping[str, Any]) -> Any:
    """Read `{media_type, data}` of Anthropic and `{bytes}` of Hugging Face data sets."""
    data = image.get("data")
    if isinstance(data, str):
        return f"data:{image.get('media_type') or 'image/png'};base64,{data}"
    return image.get("bytes")


def _encoded(image: Any) -> str | None:
    """Encode the bytes of an image file, or a Pillow image as PNG; None for any other object."""
    if isinstance(image, (bytes, bytearray)):
        kind = next((kind for start, kind in _SIGNATURES if image.startswith(start)), None)
        return None if kind is None else _data_url(kind, bytes(image))
    if "Image" not in [kind.__name__ for kind in type(image).__mro__] or not hasattr(image, "save"):
        return None
    for convert in (False, True):
        try:
            file = io.BytesIO()
            (image.convert("RGB") if convert else image).save(file, format="PNG")
        except Exception:  # noqa: BLE001, S112 - a mode that PNG lacks is converted; else a placeholder
            continue
        return _data_url("png", file.getvalue())
    return None


def _data_url(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
