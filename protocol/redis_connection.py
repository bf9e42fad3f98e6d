"""What limits, cache and single flight share: their Redis client, Lua scripts, one line per outage."""

import logging
import threading
from importlib import resources

from redis import Redis
from redis.backoff import NoBackoff
from redis.commands.core import Script
from redis.retry import Retry

from oyer.protocol.redis_client import Client

log = logging.getLogger(__name__)

SOCKET_TIMEOUT_S = 1.0
"""Longest wait for Redis, in seconds: well below every lease, so that a partition is noticed."""


def connect(url: str, *, max_connections: int = 256) -> Redis:
    """Return a client that fails fast, as leases need it, and returns bytes.

    One silent retry replaces a connection that a restarted server has closed.
    """
    return Client.from_url(
        url,
        socket_timeout=SOCKET_TIMEOUT_S,
        socket_connect_timeout=SOCKET_TIMEOUT_S,
        retry=Retry(NoBackoff(), 1),
        max_connections=max_connections,
    )


def load_script(redis: Redis, package: str, name: str) -> Script:
    """Return the script `name`.lua of a package; the server loads it on first use."""
    return redis.register_script(resources.files(package).joinpath(f"{name}.lua").read_text())


class Outage:
    """Logs when Redis goes and when it returns, once each."""

    def __init__(self, consequence: str) -> None:
        self._consequence = consequence
        self._lock = threading.Lock()
        self._down = False

    def begin(self, error: Exception) -> None:
        """Note a failed exchange."""
        if self._change(True):
            log.warning("Redis cannot be reached (%r): %s", error, self._consequence)

    def end(self) -> None:
        """Note an exchange that worked."""
        if self._down and self._change(False):
            log.warning("Redis is back")

    def _change(self, down: bool) -> bool:
        with self._lock:
            changed, self._down = self._down != down, down
            return changed
