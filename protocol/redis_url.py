"""The URLs of a Redis: what redis-py, kombu and Celery take for each form of `broker.url`.

- `redis://…` and `rediss://…` are the same for all of them.
- `unix:///path` is redis-py's form of a Unix socket; kombu and Celery read `redis+socket:///path`.
- `redis+sentinel://[user:password@]host:port,host:port/primary[/db]` is Oyer's own: kombu and Celery
  read the sentinels from a list of URLs, and the name of the primary from an option.
"""

from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import parse_qs, quote, unquote, urlsplit

SENTINEL = "redis+sentinel"
SENTINEL_PORT = 26_379

_SENTINEL_FORM = "redis+sentinel://:password@host:26379,host:26379/mymaster/0"


@dataclass(frozen=True)
class SentinelUrl:
    """A primary that sentinels know by its name."""

    hosts: tuple[tuple[str, int], ...]
    """Host and port of each sentinel."""
    primary: str
    db: int = 0
    username: str | None = None
    """Of the primary, like `password`."""
    password: str | None = None
    sentinel_username: str | None = None
    sentinel_password: str | None = None

    @classmethod
    def of(cls, url: str) -> Self | None:
        """Parse a URL; None if it is of another scheme.

        Raises:
            ValueError: a part is missing or wrong; the message says what to write.
        """
        scheme, _, rest = url.partition("://")
        if scheme != SENTINEL:
            return None
        place, _, query = rest.partition("?")
        place, *path = place.split("/")
        user, _, hosts = place.rpartition("@")
        username, _, password = user.partition(":")
        options = parse_qs(query, keep_blank_values=True)
        if unknown := options.keys() - {"sentinel_username", "sentinel_password"}:
            raise ValueError(
                f"option {min(unknown):.40} is unknown with Sentinel; there are sentinel_username and"
                " sentinel_password"
            )
        primary, db = (*path, "0")[:2] if path else ("", "0")
        if not primary or not db.isdecimal() or len(path) > 2:
            raise ValueError(
                f"must name the primary, as the sentinels do, and a database: {_SENTINEL_FORM}"
            )
        return cls(
            hosts=tuple(map(_host_and_port, hosts.split(","))),
            primary=unquote(primary),
            db=int(db),
            username=unquote(username) or None,
            password=unquote(password) or None,
            sentinel_username=options.get("sentinel_username", [None])[0],
            sentinel_password=options.get("sentinel_password", [None])[0],
        )

    @property
    def sentinel_options(self) -> dict[str, str]:
        """The credentials of the sentinels, as redis-py names them."""
        given = {"username": self.sentinel_username, "password": self.sentinel_password}
        return {name: value for name, value in given.items() if value is not None}

    @property
    def celery_url(self) -> str:
        """One URL for each sentinel, as kombu and Celery read them."""
        name, password = quote(self.username or "", safe=""), quote(self.password or "", safe="")
        user = f"{name}:{password}@" if name or password else ""
        return ";".join(
            f"sentinel://{user}{f'[{host}]' if ':' in host else host}:{port}/{self.db}"
            for host, port in self.hosts
        )

    @property
    def celery_options(self) -> dict[str, Any]:
        """Transport options of broker and result backend."""
        return {"master_name": self.primary, "sentinel_kwargs": self.sentinel_options}


def _host_and_port(text: str) -> tuple[str, int]:
    wrong = f"must name the host and port of each sentinel: {_SENTINEL_FORM}"
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(wrong) from error
    if not host or port == 0:
        raise ValueError(wrong)
    return host, port or SENTINEL_PORT


def socket_url(url: str) -> str:
    """Return the URL of a Unix socket in redis-py's form.

    Args:
        url: in redis-py's form or in Celery's.

    Raises:
        ValueError: it names no absolute path, or an option other than the database.
    """
    parts = urlsplit(url)
    options = parse_qs(parts.query, keep_blank_values=True)
    db, *further = options.pop("db", None) or options.pop("virtual_host", None) or ["0"]
    options_right = db.isdecimal() and not further and not options
    if not parts.path.strip("/") or parts.hostname or not options_right:
        raise ValueError("must name a socket by its absolute path, as unix:///run/redis.sock?db=0")
    user = parts.netloc.rpartition("@")[0]
    return f"unix://{user + '@' if user else ''}{parts.path}?db={db}"


def celery_url(url: str) -> tuple[str, dict[str, Any]]:
    """Return the URL of a Redis as Celery reads it, without `redis+`, and its transport options."""
    if sentinel := SentinelUrl.of(url):
        return sentinel.celery_url, sentinel.celery_options
    if url.startswith("unix://"):
        # redis-py reads the database from `db`, Celery from `virtual_host`.
        return "socket" + url.removeprefix("unix").replace("?db=", "?virtual_host="), {}
    return url, {}
