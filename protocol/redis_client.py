"""The Redis client of every process, its factory, its script loader, and its error texts.

A failover, a full memory or a long script makes Redis refuse commands for seconds. redis-py, kombu
and Celery reconnect and retry after a lost connection, but give up at once on an error reply.
`Client` therefore raises such a reply as a connection error.
"""

import contextlib
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator
from importlib import resources
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.client import Pipeline
from redis.commands.core import Script
from redis.exceptions import NoScriptError
from redis.retry import Retry
from redis.sentinel import Sentinel

from oyer.protocol.errors import InvalidConfig
from oyer.protocol.redis_url import SentinelUrl

log = logging.getLogger(__name__)

FAIL_FAST_S = 1.0
"""Redis timeout of limiter, single flight and budget, in seconds. It is well below every claim's
lifetime, so that a process notices a network partition before its claims expire."""

PASSING = {
    "READONLY": "it is a replica; a failover is under way",
    "UNBLOCKED": "it has become a replica; a failover is under way",
    "LOADING": "it is loading its data",
    "MASTERDOWN": "it is a replica that has lost its primary",
    "NOREPLICAS": "fewer replicas answer than min-replicas-to-write",
    "CLUSTERDOWN": "its cluster is down",
    "MOVED": "its cluster has moved the key to another node",
    "ASK": "its cluster is moving the key to another node",
    "REDIRECT": "it is a replica and names its primary",
    "TRYAGAIN": "its cluster is moving the keys to another node",
    "BUSY": "a script takes long",
    "OOM": "it has no memory left below maxmemory",
    "MISCONF": "it cannot save to disk and refuses writes",
    "NOSCRIPT": "it has restarted and lost the script",
}
"""Temporary error codes of Redis and Valkey and their meaning. Source: `shared` replies in
`server.c` of Redis 8 and Valkey 8."""

REFUSED_S = 30.0
"""How long a trainer's `submit` waits while Redis refuses commands, in seconds: a managed failover
takes 10 to 30."""

_PAUSE_S = 0.5
"""Pause between two attempts of `while_refused`, in seconds."""

_CLOCK_AGE_S = 60.0
"""How long a read clock of Redis is extrapolated, in seconds: two clocks drift by milliseconds then."""

_CODE = re.compile(rf"(?:^|: -?)({'|'.join(PASSING)})(?= |$)")
"""Matches the code in a reply, in a script's error and in a pipeline's ("… caused error: BUSY …")."""


class RedisRefuses(redis.ConnectionError):
    """Redis answers, but temporarily refuses commands."""


def passing_code(error: BaseException) -> str | None:
    """Return the code of a temporary error reply; None for any other error."""
    if not isinstance(error, redis.ResponseError):
        return None
    # redis-py strips the code from the text of replies for which it has an exception class.
    if error.status_code in PASSING:
        return str(error.status_code)
    found = _CODE.search(str(error))
    return found[1] if found else None


def refusal_behind(error: BaseException | None) -> RedisRefuses | None:
    """Return the refusal in an error's causes; kombu and Celery wrap it."""
    while error is not None and not isinstance(error, RedisRefuses):
        error = error.__cause__ or error.__context__
    return error


def while_refused(work: Callable[[], None]) -> None:
    """Run `work`, which must be idempotent; retry it for `REFUSED_S` while Redis refuses commands.

    Raises:
        Exception: the last error of `work`.
    """
    ends_at = time.monotonic() + REFUSED_S
    while True:
        try:
            work()
            return
        except Exception as error:
            if refusal_behind(error) is None or time.monotonic() > ends_at:
                raise
        time.sleep(_PAUSE_S)


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except redis.ResponseError as error:
        _raise_refusal(error)
        raise


def _raise_refusal(reply: object) -> None:
    if not isinstance(reply, redis.ResponseError):
        return
    code = passing_code(reply)
    if code is not None:
        raise RedisRefuses(f"{PASSING[code]} ({code}: {reply})") from reply


class Client(redis.Redis):
    """Raises `RedisRefuses`, on which redis-py closes the connection and kombu reconnects.

    A new connection also reaches the new primary if the host name points to it.
    """

    def parse_response(self, connection: Any, command_name: Any, **options: Any) -> Any:
        """Read one reply."""
        try:
            return super().parse_response(connection, command_name, **options)  # type: ignore[no-untyped-call]
        except NoScriptError:
            # redis-py loads the script and retries.
            raise
        except redis.ResponseError as error:
            _raise_refusal(error)
            raise

    def pipeline(self, transaction: bool = True, shard_hint: Any = None) -> "ClientPipeline":
        """Return a pipeline that raises `RedisRefuses` as well."""
        return ClientPipeline(
            self.connection_pool, self.response_callbacks, transaction, shard_hint
        )


class ClientPipeline(Pipeline):
    """A pipeline that reads every reply, then raises the first refusal."""

    def execute(self, raise_on_error: bool = True) -> list[Any]:
        """Send all commands and return their replies.

        Raises:
            RedisRefuses: also without `raise_on_error`, which returns other errors among the replies.
        """
        try:
            with _translated():
                replies = super().execute(raise_on_error)
                for reply in replies:
                    if not isinstance(reply, NoScriptError):
                        _raise_refusal(reply)
                return replies
        except RedisRefuses:
            # Close the pooled connections: they lead to a server that refuses commands.
            self.connection_pool.disconnect(inuse_connections=False)
            raise

    def immediate_execute_command(self, *args: Any, **options: Any) -> Any:
        """Send one command immediately; used after `WATCH`."""
        with _translated():
            return super().immediate_execute_command(*args, **options)  # type: ignore[no-untyped-call]


def open_client(url: str, **options: Any) -> redis.Redis:
    """Return a client of the Redis at any URL that `broker.url` accepts.

    Args:
        options: of each connection, as of `redis.Redis`.
    """
    place = SentinelUrl.of(url)
    if place is None:
        if url.startswith("unix://"):
            for tcp_only in ("socket_connect_timeout", "socket_keepalive"):
                options.pop(tcp_only, None)
        return Client.from_url(url, **options)
    timeouts = {name: options[name] for name in options if name.startswith("socket_")}
    sentinels = Sentinel(place.hosts, sentinel_kwargs={**timeouts, **place.sentinel_options})
    # The pool asks the sentinels for the primary each time that it opens a connection.
    login = {"username": place.username, "password": place.password}
    primary = sentinels.master_for(
        place.primary, redis_class=Client, db=place.db, **login, **options
    )
    assert isinstance(primary, Client)
    return primary


def refuse_cluster(client: redis.Redis) -> None:
    """Refuse a Redis in cluster mode: scripts and transactions of Oyer use keys of several slots.

    Raises:
        InvalidConfig: it is in cluster mode.
        redis.RedisError: it does not answer.
    """
    try:
        mode = client.info("server").get("redis_mode")
    except redis.exceptions.NoPermissionError:
        return  # A user without INFO: a cluster's own error follows, at the first command.
    if mode == "cluster":
        raise InvalidConfig(
            "broker.url: this Redis is in cluster mode, which Oyer does not support; give one without"
            " (`cluster-enabled no`), or one behind Sentinel: redis+sentinel://host:26379/mymaster/0"
        )


def connect(
    url: str, *, timeout_s: float = FAIL_FAST_S, retries: int = 1, max_connections: int = 300
) -> redis.Redis:
    """Return a client that returns bytes and opens connections on first use.

    Args:
        url: as of `broker.url`.
        timeout_s: maximum wait for a connection or a reply, in seconds.
        retries: immediate retries after a lost connection; 1 replaces a connection that a
            restarted server has closed.
    """
    return open_client(
        url,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        socket_keepalive=True,
        retry=Retry(NoBackoff(), retries),
        max_connections=max_connections,
    )


def load_script(client: redis.Redis, package: str, name: str) -> Script:
    """Return the script `name`.lua of a package; the server loads it on first use."""
    return client.register_script(resources.files(package).joinpath(f"{name}.lua").read_text())


def unreachable(error: redis.RedisError, fix: str) -> str:
    """Describe why Redis cannot be used: credentials, permissions, or no answer.

    Args:
        fix: what to do if Redis does not answer.
    """
    text = str(error)
    if isinstance(error, redis.AuthenticationError) or text.startswith(("WRONGPASS", "NOAUTH")):
        # Without a password, redis-py's first command is a HELLO, which Redis then refuses.
        if "required" in text.lower() or text.startswith(("NOAUTH", "HELLO")):
            return "Redis asks for a password; write it into broker.url, as redis://:password@host:6379/0"
        return "Redis answers, but refuses the user or password of broker.url; correct them"
    if isinstance(error, redis.exceptions.NoPermissionError):
        return f"Redis answers, but refuses a command to the user of broker.url ({text})"
    return f"Redis does not answer ({text.rstrip('.')}); {fix}"


class RedisClock:
    """The time by the clock of Redis, which all hosts share; their own clocks may differ by minutes.

    Redis is asked at most once in `_CLOCK_AGE_S`. Every method raises `redis.RedisError` if it does not
    answer then.
    """

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._offset_s = 0.0
        """The epoch time of Redis minus the monotonic clock."""
        self._read_at_s: float | None = None

    def read(self) -> None:
        """Read the clock of Redis, unless that was done just now."""
        if self._read_at_s is None or time.monotonic() - self._read_at_s > _CLOCK_AGE_S:
            seconds, microseconds = self._client.time()
            self._read_at_s = time.monotonic()
            self._offset_s = seconds + microseconds / 1e6 - self._read_at_s

    def now_s(self) -> float:
        """Return the epoch seconds."""
        self.read()
        return time.monotonic() + self._offset_s

    def ahead_s(self) -> float:
        """Return how far this host's clock is ahead, in seconds; negative if it is behind."""
        now_s = self.now_s()
        return time.time() - now_s


class Outage:
    """Logs the begin and the end of a Redis outage, once each."""

    def __init__(self, consequence: str) -> None:
        self._consequence = consequence
        self._lock = threading.Lock()
        self._down = False

    def begin(self, error: Exception) -> None:
        """Note a failed round trip."""
        if self._change(True):
            log.warning("Redis cannot be reached (%r): %s", error, self._consequence)

    def end(self) -> None:
        """Note a successful round trip."""
        if self._down and self._change(False):
            log.warning("Redis is back")

    def _change(self, down: bool) -> bool:
        with self._lock:
            changed, self._down = self._down != down, down
            return changed
