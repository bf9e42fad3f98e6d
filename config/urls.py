"""Addresses of Redis and of the record, as a configuration writes them."""

import re
from urllib.parse import urlsplit

from oyer.config.section import names_host

_REDIS = {"redis": "redis", "rediss": "rediss", "valkey": "redis", "valkeys": "rediss"}
"""The scheme that redis-py and Celery know, by the one that is written."""

_NO_REDIS = {
    "sentinel": "Sentinel is not supported: give the address under which your clients reach the"
    " primary, e.g. that of a proxy, as redis://host:6379/0",
    "unix": "sockets are not supported: let Redis listen on a port, and give redis://localhost:6379/0",
    "redis+socket": "sockets are not supported: let Redis listen on a port, and give"
    " redis://localhost:6379/0",
    "amqp": "RabbitMQ is not supported: give a Redis, as redis://host:6379/0",
    "amqps": "RabbitMQ is not supported: give a Redis, as redis://host:6379/0",
}
"""What to write in place of other brokers' schemes."""

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")


def broker_url(url: str | None) -> str | None:
    """Check a Redis URL; `valkey://` is written as `redis://`.

    Raises:
        ValueError: says what to write.
    """
    if url is None:
        return None
    scheme, _, rest = url.partition("://")
    scheme = scheme.lower()
    if not rest or scheme not in _REDIS:
        # What is no scheme may be a password: only a known one is named.
        fix = _NO_REDIS.get(scheme, "must be a Redis URL, as redis://host:6379/0 or rediss://…")
        raise ValueError(fix)
    url = f"{_REDIS[scheme]}://{rest}"
    if url.startswith("rediss:") and "ssl_cert_reqs=" not in url:
        raise ValueError("append `?ssl_cert_reqs=required` to a rediss:// URL; Celery asks")
    if not names_host(url):
        raise ValueError("must name a host and a port, as in redis://host:6379/0")
    return url


def store_url(url: str) -> str:
    """Check the URL of a record; `oyer.models.engine` reads the same ones.

    Raises:
        ValueError: says what to write.
    """
    found = _SCHEME.match(url)
    scheme = found[1].lower() if found else ""
    kind = scheme.partition("+")[0]
    if kind not in ("sqlite", "postgresql", "postgres"):
        raise ValueError("must be `sqlite:///file.db` or `postgresql://user@host/db`")
    if kind == "sqlite" and urlsplit(url).netloc:
        raise ValueError("needs three slashes before the file, as in `sqlite:///file.db`")
    return url
