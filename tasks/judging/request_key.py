"""The key of a judge request: equal requests are called for once; pure."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from oyer.config.judge import JudgeConfig
from oyer.protocol.errors import InvalidInput

KEY_VERSION = 1
"""Raise it whenever the same fields mean another request."""


def request_key(
    *,
    endpoint: str,
    model: str,
    messages: Sequence[Mapping[str, Any]],
    sampling: Mapping[str, Any],
    rubric_hash: str,
    sample: int,
) -> str:
    """Return the sha256, in hex, of all that a judge's reply depends on.

    The order of mapping keys and the form of a number (`1`, `1.0`) make no difference; every
    character of a text does. The sample's index separates the samples of one request.

    Raises:
        InvalidInput: a value cannot be written as JSON (NaN and infinity included).
    """
    request = {
        "version": KEY_VERSION,
        "endpoint": endpoint,
        "model": model,
        "messages": messages,
        "sampling": sampling,
        "rubric": rubric_hash,
        "sample": sample,
    }
    try:
        text = json.dumps(
            _canonical(request),
            sort_keys=True,
            ensure_ascii=False,
            allow_nan=False,
            separators=(",", ":"),
        )
    except (TypeError, ValueError) as error:
        raise InvalidInput(
            f"a request to {endpoint!r} cannot be written as JSON ({error}): use only strings, finite"
            " numbers, lists and mappings in messages and sampling settings"
        ) from error
    # A policy can emit half a surrogate pair, which strict UTF-8 refuses.
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _canonical(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _canonical(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_canonical(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def seed_for(judge: JudgeConfig, key: str) -> int | None:
    """Return a seed that differs by sample, from 0 to 2³¹ - 1: some endpoints take 32 bits.

    None if samples differ by temperature, or if there is only one.
    """
    if judge.samples == 1 or judge.temperature != 0:
        return None
    return int(key[:8], 16) & 0x7FFF_FFFF
