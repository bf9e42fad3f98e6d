"""Base class of every configuration section, and checks that several sections share."""

import ipaddress
import re
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    ConfigDict,
)

MAX_TIME_S = 30 * 86_400.0
"""Longest time that a key may ask for, in seconds; Python's locks cannot wait for ever longer."""

MAX_USD = 1e6
"""Highest price or budget; it is counted in whole nano-dollars, which must stay exact."""


class Section(BaseModel):
    """A part of the configuration: unknown keys are refused, values never change."""

    # What is wrong may be a password: an error names the key, and never shows its value.
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


_NAME = re.compile(r"(?![0-9]+(\.[0-9]+){3}$)[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*\.?")
"""A host name as DNS knows it; four numbers are an address, or nothing."""


def names_host(url: str) -> bool:
    """Whether a URL names a host, in ASCII as DNS knows it, and a port that one can connect to."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        if not _NAME.fullmatch(host):
            ipaddress.ip_address(host)
        named = parts.port != 0
    except ValueError:
        return False
    return named and url.isprintable() and " " not in url
