"""A cache of judges' complete replies in Redis, so that no call is paid for twice.

- Replies are cached unparsed, so that a later parser can read them again.
- A Redis failure is a cache miss, never an error: every reply is on the SQL record as well.
"""

import threading
from collections import deque
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal

from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from redis import Redis, RedisError
from redis.client import Pipeline

from oyer.protocol.errors import MessageRefused
from oyer.protocol.packing import pack, unpack
from oyer.protocol.redis_client import Outage

EXPIRE_SOON_MS = 60_000
"""How long a reply stays cached once it is on record, in milliseconds, for those waiting for it."""


def reply_key(key: str) -> str:
    """Return the Redis key of the reply to request `key`."""
    return f"oyer:reply:{key}"


@dataclass(frozen=True, kw_only=True, slots=True)
class CachedAttempt:
    """The request that brought a cached reply, so that it is on record even if its worker dies."""

    id: str
    """Of its row in `attempts`: two workers that record it write one row."""
    batch_id: str
    place: tuple[int, str, int]
    """Rollout, judge and sample of its judgement in the batch."""
    started_at: datetime
    latency_ms: float
    http_status: int
    url_index: int
    billed: tuple[int, int]
    """Prompt and completion tokens that count for its cost."""
    sent: dict[str, Any]
    """The body that was sent, without its messages."""
    hedge: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class CachedReply:
    """A complete reply of a judge; one that was cut, refused or failed does not validate."""

    text: str = Field(min_length=1)
    """As received."""
    finish_reason: Literal["stop"]
    model: str
    """As the endpoint names it."""
    usage: dict[str, int]
    """Tokens by kind, as reported: `prompt_tokens`, `completion_tokens`, …"""
    at_s: float
    """Time received, in epoch seconds."""
    expected_score: float | None = None
    """From the reply's log-probabilities, which are not cached."""
    reasoning: str | None = None
    """The reasoning that the judge's model returned beside the reply."""
    attempt: CachedAttempt | None = None
    """None for the reply to a re-ask, and from workers of earlier releases."""


_REPLY = TypeAdapter(CachedReply)


class ReplyCache:
    """Replies in Redis, for `ttl_s` seconds each."""

    def __init__(self, redis: Redis, ttl_s: float) -> None:
        self._redis = redis
        self._ttl_ms = int(ttl_s * 1000)
        self._unsent: deque[tuple[str, bytes]] = deque()
        self._sending = threading.Lock()
        self._outage = Outage("replies are read from the SQL record only")

    def get_many(self, keys: Sequence[str]) -> dict[str, CachedReply]:
        """Return the cached replies, in one round trip; unreadable ones are deleted."""
        found: dict[str, CachedReply] = {}
        if not keys:
            return found
        unreadable = []
        try:
            blobs = self._redis.mget([reply_key(key) for key in keys])
            for key, blob in zip(keys, blobs, strict=True):
                if not isinstance(blob, bytes):
                    continue
                try:
                    found[key] = _REPLY.validate_json(unpack(blob))
                except (MessageRefused, ValidationError):
                    unreadable.append(reply_key(key))
            if unreadable:
                self._redis.delete(*unreadable)
        except RedisError as error:
            self._outage.begin(error)
        else:
            self._outage.end()
        return found

    def keep(self, key: str, reply: CachedReply) -> None:
        """Cache a reply; while Redis is unreachable the reply is lost to the cache.

        Replies that arrive while others are being sent share the next round trip.
        """
        self._unsent.append((reply_key(key), pack(_REPLY.dump_json(reply))))
        with self._sending:
            if not self._unsent:
                return
            pipe = self._redis.pipeline(transaction=False)
            while self._unsent:
                name, blob = self._unsent.popleft()
                pipe.set(name, blob, px=self._ttl_ms)
            self._send(pipe)

    def drop(self, keys: Sequence[str]) -> None:
        """Delete replies, so that the next process to need one calls for it again."""
        pipe = self._redis.pipeline(transaction=False)
        pipe.delete(*(reply_key(key) for key in keys))
        self._send(pipe)

    def expire_soon(self, keys: Sequence[str]) -> None:
        """Shorten the lifetime of replies that are on record now and read from there."""
        if not keys:
            return
        pipe = self._redis.pipeline(transaction=False)
        for key in keys:
            pipe.pexpire(reply_key(key), min(EXPIRE_SOON_MS, self._ttl_ms))
        self._send(pipe)

    def _send(self, pipe: Pipeline) -> None:
        try:
            pipe.execute()
        except RedisError as error:
            self._outage.begin(error)
        else:
            self._outage.end()
