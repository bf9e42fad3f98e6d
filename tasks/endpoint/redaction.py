"""Taking secrets out of text before it is kept, logged or raised."""

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
    # Keys as OpenAI and most others shape them, masked in part or whole.
    re.compile(r"(\bsk-)[\w*.-]{4,}"),
    # `https://user:password@host`
    re.compile(r"(://)[^/@\s]+(?=@)"),
)


def redact(text: str, secrets: Iterable[str] = (), *, limit_chars: int | None = None) -> str:
    """Mask `secrets` and whatever looks like a credential; then cut to `limit_chars`.

    A secret is also found as it stands in a URL. Cutting comes last, so that no part of a
    secret is left at the end.
    """
    text = mask(text, secrets)
    if limit_chars is not None:
        # Patterns are matched on a little more than is kept, however large an error page is.
        text = text[: 8 * limit_chars]
    for pattern in _PATTERNS:
        text = pattern.sub(rf"\1{MASK}", text)
    return text if limit_chars is None else text[:limit_chars]


def mask(text: str, secrets: Iterable[str]) -> str:
    """Mask `secrets` and nothing else, for text that is kept as it came."""
    for secret in secrets:
        for form in {secret, quote(secret), quote(secret, safe="")}:
            text = text.replace(form, MASK)
    return text
