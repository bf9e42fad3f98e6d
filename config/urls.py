"""Checks the URLs in a configuration: of endpoints, Redis and the database."""

import ipaddress
import re
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator

from oyer.protocol.redis_url import SENTINEL, SentinelUrl, socket_url

_HOST_NAME = re.compile(r"(?![0-9]+(\.[0-9]+){3}$)[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*\.?")
"""A DNS host name; four numbers are an IP address instead."""


def names_host(url: str) -> bool:
    """Whether a URL has a host, in ASCII as in DNS, and a port other than 0."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        if not _HOST_NAME.fullmatch(host):
            ipaddress.ip_address(host)
        named = parts.port != 0
    except ValueError:
        return False
    return named and url.isprintable() and " " not in url


_CALL_PATH = re.compile(r"/(chat/completions|completions|responses|embeddings|models)/*$")
"""Path endings that belong to one call, not to a `base_url`."""


def _http_url(url: str) -> str:
    if not url.startswith(("http://", "https://")):
        raise ValueError("must begin with http:// or https://, as in https://api.deepseek.com/v1")
    if not names_host(url):
        raise ValueError(
            "must name a host and a port that can be called, as in http://host:8000/v1; letters beyond"
            " ASCII are written as xn--…"
        )
    if called := _CALL_PATH.search(urlsplit(url).path):
        raise ValueError(
            f"ends in `/{called[1]}`; leave that off, as in https://api.deepseek.com/v1: the path"
            " of a call is added to it"
        )
    return url


HttpUrl = Annotated[str, AfterValidator(_http_url)]
"""A base URL, without the `/chat/completions` of a call."""

_REDIS = {"redis": "redis", "rediss": "rediss", "valkey": "redis", "valkeys": "rediss"}
"""The scheme that redis-py and Celery accept, by the scheme as written."""

_NO_REDIS = {
    "sentinel": "names no primary; write redis+sentinel://:password@host:26379,host:26379/mymaster/0",
    "rediss+sentinel": "TLS is not supported with Sentinel: give the address of a proxy to the primary,"
    " as rediss://host:6379/0?ssl_cert_reqs=required",
    "amqp": "RabbitMQ is not supported: give a Redis, as redis://host:6379/0",
    "amqps": "RabbitMQ is not supported: give a Redis, as redis://host:6379/0",
}
"""What to write instead, by the scheme of an unsupported broker."""

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")


def broker_url(url: str | None) -> str | None:
    """Check a Redis URL; `valkey://` becomes `redis://`, and `redis+socket://` becomes `unix://`.

    Raises:
        ValueError: the message says what to write.
    """
    if url is None:
        return None
    scheme, _, rest = url.partition("://")
    scheme = scheme.lower()
    if scheme in ("unix", "redis+socket"):
        return socket_url(url)
    if scheme == SENTINEL:
        url = f"{SENTINEL}://{rest}"
        SentinelUrl.of(url)
        return url
    if not rest or scheme not in _REDIS:
        # An unknown scheme may be a password: only known schemes are named.
        fix = _NO_REDIS.get(scheme, "must be a Redis URL, as redis://host:6379/0 or rediss://…")
        raise ValueError(fix)
    url = f"{_REDIS[scheme]}://{rest}"
    if url.startswith("rediss:") and "ssl_cert_reqs=" not in url:
        raise ValueError("append `?ssl_cert_reqs=required` to a rediss:// URL; Celery asks")
    if not names_host(url):
        raise ValueError("must name a host and a port, as in redis://host:6379/0")
    return url


def store_url(url: str) -> str:
    """Check a database URL; `oyer.models.engine` accepts the same URLs.

    Raises:
        ValueError: the message says what to write.
    """
    found = _SCHEME.match(url)
    scheme = found[1].lower() if found else ""
    kind = scheme.partition("+")[0]
    if kind not in ("sqlite", "postgresql", "postgres"):
        raise ValueError("must be `sqlite:///file.db` or `postgresql://user@host/db`")
    if kind == "sqlite" and urlsplit(url).netloc:
        raise ValueError("needs three slashes before the file, as in `sqlite:///file.db`")
    return url
