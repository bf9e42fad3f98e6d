"""A Redis client that takes an error reply that passes for a lost connection.

A failover, a full memory or a long script makes Redis refuse commands for seconds. redis-py, kombu
and Celery reconnect and try again after a lost connection, and give up at once on an error reply.
Every client of Oyer is a `Client`, so that all of them wait.
"""

import contextlib
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import redis
from redis.client import Pipeline
from redis.exceptions import NoScriptError

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
"""Error codes of Redis and Valkey that end by themselves or by an operator's work on the server, and
what each means. Source: `shared` replies in `server.c` of Redis 8 and Valkey 8."""

REFUSED_S = 30.0
"""How long a trainer's `submit` waits while Redis refuses commands, in seconds: a managed failover
takes 10 to 30."""

_PAUSE_S = 0.5
"""Pause between two of its attempts, in seconds."""

_CODE = re.compile(rf"(?:^|: -?)({'|'.join(PASSING)})(?= |$)")
"""Finds the code in a reply, in a script's error and in a pipeline's ("… caused error: BUSY …")."""


class RedisRefuses(redis.ConnectionError):
    """Redis answers, and refuses commands for a while."""


def passing_code(error: BaseException) -> str | None:
    """Return the code of an error reply that passes; None for any other error."""
    if not isinstance(error, redis.ResponseError):
        return None
    # redis-py takes the code out of the text of the replies that it has a class for.
    if error.status_code in PASSING:
        return str(error.status_code)
    found = _CODE.search(str(error))
    return found[1] if found else None


def refusal_behind(error: BaseException | None) -> RedisRefuses | None:
    """Return the refusal that an error was raised for, as kombu and Celery wrap it."""
    while error is not None and not isinstance(error, RedisRefuses):
        error = error.__cause__ or error.__context__
    return error


def while_refused(work: Callable[[], None]) -> None:
    """Do what may be repeated, again for `REFUSED_S` where Redis refuses commands.

    Raises:
        Exception: what `work` raised last.
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
    """Raises `RedisRefuses`, on which redis-py closes the connection and kombu connects anew.

    A new connection also finds the new primary where a host name leads to it.
    """

    def parse_response(self, connection: Any, command_name: Any, **options: Any) -> Any:
        """Read one reply."""
        try:
            return super().parse_response(connection, command_name, **options)  # type: ignore[no-untyped-call]
        except NoScriptError:
            # redis-py loads the script and calls it again.
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
    """A pipeline that raises the first refusal once every reply was read."""

    def execute(self, raise_on_error: bool = True) -> list[Any]:
        """Send all commands and return their replies.

        Raises:
            RedisRefuses: also without `raise_on_error`, where only NOSCRIPT is returned.
        """
        try:
            with _translated():
                replies = super().execute(raise_on_error)
                for reply in replies:
                    if not isinstance(reply, NoScriptError):
                        _raise_refusal(reply)
                return replies
        except RedisRefuses:
            # The connection has gone back to its pool; it leads to a server that refuses.
            self.connection_pool.disconnect(inuse_connections=False)
            raise

    def immediate_execute_command(self, *args: Any, **options: Any) -> Any:
        """Send one command at once, as `WATCH` needs it."""
        with _translated():
            return super().immediate_execute_command(*args, **options)  # type: ignore[no-untyped-call]
