"""The pay-once cache: a judge's complete replies in Redis, read again instead of paid for again.

- What is kept is the reply as it came, so that a better parser can read it anew.
- Redis failing is a miss, never an error: the SQL record stands behind this cache.
"""

import hashlib
import json
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from redis import Redis, RedisError
from redis.client import Pipeline

from oyer.protocol.errors import InvalidInput, MessageRefused
from oyer.protocol.packing import pack, unpack
from oyer.protocol.redis_client import Outage

KEY_VERSION = 1
"""Raised whenever the same fields come to mean another request."""


FADE_MS = 60_000
"""How long a reply on record stays in Redis, for those who wait for it now, in milliseconds."""


def request_key(
    *,
    endpoint: str,
    model: str,
    messages: Sequence[Mapping[str, Any]],
    sampling: Mapping[str, Any],
    rubric_hash: str,
    sample: int,
) -> str:
    """Return the sha256, in hex, that names a judge request: all that its reply depends on.

    The order of keys and the spelling of a number (`1`, `1.0`) make no difference, every character
    of the text does. The sample's index keeps k samples of one request apart.

    Raises:
        InvalidInput: a value is no JSON (NaN and infinity included).
    """
    request = {
        "version": KEY_VERSION,
        "endpoint": endpoint,
        "model": model,
        "messages": messages,
        "sampling": sampling,
        "rubric": rubric_hash,
        "sample": sample,
    }
    try:
        text = json.dumps(
            _canonical(request),
            sort_keys=True,
            ensure_ascii=False,
            allow_nan=False,
            separators=(",", ":"),
        )
    except (TypeError, ValueError) as error:
        raise InvalidInput(
            f"a request to {endpoint!r} holds what JSON cannot say ({error}): give messages and"
            " sampling settings of strings, finite numbers, lists and mappings"
        ) from error
    # A policy can emit half a surrogate pair, which plain UTF-8 refuses.
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _canonical(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _canonical(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_canonical(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def reply_key(key: str) -> str:
    """Return the Redis key of the reply to request `key`."""
    return f"oyer:reply:{key}"


@dataclass(frozen=True, kw_only=True, slots=True)
class CachedReply:
    """A complete reply of a judge; a cut, refused or failed one cannot be made into this."""

    text: str = Field(min_length=1)
    """As it came."""
    finish_reason: Literal["stop"]
    model: str
    """As the endpoint names it."""
    usage: dict[str, int]
    """Tokens by kind, as reported: `prompt_tokens`, `completion_tokens`, …"""
    at_s: float
    """When it came, epoch seconds."""
    expected_score: float | None = None
    """From the reply's log-probabilities, which are not kept."""
    reasoning: str | None = None
    """What the judge's model thought before the reply."""


_REPLY = TypeAdapter(CachedReply)


class ReplyCache:
    """Replies in Redis, for `ttl_s` seconds each."""

    def __init__(self, redis: Redis, ttl_s: float) -> None:
        self._redis = redis
        self._ttl_ms = int(ttl_s * 1000)
        self._unsent: deque[tuple[str, bytes]] = deque()
        self._sending = threading.Lock()
        self._outage = Outage("replies are read from and kept in the SQL record only")

    def get_many(self, keys: Sequence[str]) -> dict[str, CachedReply]:
        """Return the replies there are, in one round trip; what cannot be read is deleted."""
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
        """Keep a reply; one that cannot be sent is not kept.

        Replies that come while others are being sent share the next round trip.
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
        """Delete replies, so that those who wait for one of these requests pay for it anew."""
        pipe = self._redis.pipeline(transaction=False)
        pipe.delete(*(reply_key(key) for key in keys))
        self._send(pipe)

    def fade(self, keys: Sequence[str]) -> None:
        """Let replies go soon: they are on record now, and read from there."""
        if not keys:
            return
        pipe = self._redis.pipeline(transaction=False)
        for key in keys:
            pipe.pexpire(reply_key(key), min(FADE_MS, self._ttl_ms))
        self._send(pipe)

    def _send(self, pipe: Pipeline) -> None:
        try:
            pipe.execute()
        except RedisError as error:
            self._outage.begin(error)
        else:
            self._outage.end()
