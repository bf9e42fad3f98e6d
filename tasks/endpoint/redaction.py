"""Removes secrets from text before it is stored, logged or raised."""

import re
from collections.abc import Iterable
from urllib.parse import quote

MASK = "[redacted]"

_PATTERNS = (
    # `Authorization: Bearer xyz`, `"authorization": "Basic xyz"`
    re.compile(r"""(?i)(authorization["']?\s*[:=]\s*["']?)(?:(?:bearer|basic)\s+)?[^\s"',;]+"""),
    re.compile(r"(?i)(\bbearer\s+)[\w.~+/*=-]{8,}"),
    # `?api_key=xyz`, `"api-key": "xyz"`, `Your api key: ****xyz`
    re.compile(r"""(?i)(\bapi[-_ ]?key["']?\s*[:=]\s*["']?)[^\s"'&,;]+"""),
    re.compile(r"""(?i)(\b(?:key|token|access_token|secret|sig|signature)=)[^\s"'&,;]+"""),
    # Keys in the format of OpenAI and others, also partly masked.
    re.compile(r"(\bsk-)[\w*.-]{4,}"),
    # `https://user:password@host`
    re.compile(r"(://)[^/@\s]+(?=@)"),
)


def redact(text: str, secrets: Iterable[str] = (), *, limit_chars: int | None = None) -> str:
    """Mask `secrets` and text that looks like a credential; then cut to `limit_chars`.

    URL-encoded forms of a secret are masked as well. The text is cut last, so that no part of a
    secret is left at the end.
    """
    text = mask(text, secrets)
    if limit_chars is not None:
        # Bounds the cost of the patterns on a large error page.
        text = text[: 8 * limit_chars]
    for pattern in _PATTERNS:
        text = pattern.sub(rf"\1{MASK}", text)
    return text if limit_chars is None else text[:limit_chars]


def mask(text: str, secrets: Iterable[str]) -> str:
    """Mask `secrets` and nothing else."""
    for secret in secrets:
        for form in {secret, quote(secret), quote(secret, safe="")}:
            text = text.replace(form, MASK)
    return text
