"""What workers learn about an endpoint's models: fields they refuse, names they report.

Shared through Redis, so that only the first calls are refused. Without Redis, each process uses
what it has learnt itself.
"""

import json
import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from hashlib import sha256
from urllib.parse import urlsplit

from redis import Redis, RedisError

from oyer.config.endpoint import EndpointConfig
from oyer.protocol.redis_client import Outage
from oyer.tasks.endpoint.refused_fields import Refused, described
from oyer.tasks.endpoint.types import ChatClient, ChatRequest, Failure, Reply

log = logging.getLogger(__name__)

KEEP_S = 86_400
"""Lifetime in Redis after the last change, in seconds: endpoints change."""

READ_PAUSE_S = 1.0
"""Pause between two reads of what other workers have learnt, in seconds."""

OUTAGE_PAUSE_S = 10.0
"""Pause before the next read after Redis did not answer, in seconds."""

_REPORTED = "reported"
_REFUSED = "refused:"


def server_identity(config: EndpointConfig) -> str:
    """Return a hash of an endpoint's base URLs, in hex; order, logins and queries do not count."""
    places = []
    for server in config.servers:
        parts = urlsplit(server.url)
        places.append((parts.scheme, parts.hostname, parts.port, parts.path.rstrip("/")))
    return sha256(json.dumps(sorted(set(places), key=str)).encode()).hexdigest()


class Lessons:
    """What is known about the models of one endpoint.

    Args:
        config: Its servers are part of the Redis key: the name may have meant other servers before.
        redis: Shared by the workers; None keeps the lessons in this process.
    """

    def __init__(self, endpoint: str, config: EndpointConfig, redis: Redis | None = None) -> None:
        self._endpoint = endpoint
        self._prefix = f"oyer:lessons:{endpoint}:{server_identity(config)[:16]}:"
        self._redis = redis
        self._lock = threading.Lock()
        self._refused: dict[str, Refused] = {}
        self._reported: dict[str, str] = {}
        self._read_at_s: dict[str, float] = {}
        self._outage = Outage(f"each process learns by itself what endpoint {endpoint!r} refuses")

    def refused(self, model: str) -> Refused:
        """Return the fields that a model refuses, each with its new name or None."""
        self._refresh(model)
        return self._refused.get(model, {})

    def reported(self, model: str) -> str | None:
        """Return the name that the endpoint's last reply gave a model; None if not known."""
        self._refresh(model)
        return self._reported.get(model)

    def learn(self, model: str, refused: Refused) -> Refused:
        """Add the fields that a request was refused for; returns all known ones of the model.

        A field that is refused under its new name as well is omitted from then on.
        """
        with self._lock:
            before = self._refused.get(model, {})
            known = dict(before)
            for name, new in refused.items():
                first = next((old for old, now in known.items() if now == name), name)
                if first not in known:
                    known[first] = new
                elif known[first] == name:
                    known[first] = None
            self._refused[model] = known
        fresh = {name: new for name, new in known.items() if before.get(name, name) != new}
        if fresh:
            log.warning(
                "endpoint %r refuses fields of requests to %r: they are sent %s from now on",
                self._endpoint,
                model,
                described(fresh),
            )
            self._share(model, {_REFUSED + name: new or "" for name, new in fresh.items()})
        return known

    def report(self, model: str, name: str) -> None:
        """Note the name that a reply gives a model."""
        if name and self._reported.get(model) != name:
            self._reported[model] = name
            self._share(model, {_REPORTED: name})

    def _refresh(self, model: str) -> None:
        """Read what others have learnt, if it is due; every call waits for the first read."""
        if self._redis is None:
            return
        with self._lock:
            first = model not in self._read_at_s
            if time.monotonic() < self._read_at_s.get(model, 0.0):
                return
            # Other calls do not read meanwhile: they must not queue for a Redis that does not answer.
            self._read_at_s[model] = time.monotonic() + OUTAGE_PAUSE_S
            if first:
                self._merge(model, self._read(model))
                return
        found = self._read(model)
        with self._lock:
            self._merge(model, found)

    def _read(self, model: str) -> dict[str, str] | None:
        assert self._redis is not None
        try:
            found = self._redis.hgetall(self._prefix + model)
        except RedisError as error:
            self._outage.begin(error)
            return None
        self._outage.end()
        return {_text(key): _text(value) for key, value in found.items()}

    def _merge(self, model: str, found: Mapping[str, str] | None) -> None:
        self._read_at_s[model] = time.monotonic() + (
            OUTAGE_PAUSE_S if found is None else READ_PAUSE_S
        )
        if not found:
            return
        if _REPORTED in found:
            self._reported[model] = found[_REPORTED]
        shared = {
            name.removeprefix(_REFUSED): new or None
            for name, new in found.items()
            if name.startswith(_REFUSED)
        }
        own = self._refused.get(model, {})
        # An omitted field stays omitted: a worker that lags behind may still write its new name.
        gone = {name: None for name, new in own.items() if new is None}
        self._refused[model] = {**own, **shared, **gone}

    def _share(self, model: str, fields: Mapping[str, str]) -> None:
        if self._redis is None:
            return
        pipe = self._redis.pipeline(transaction=False)
        for name, value in fields.items():
            pipe.hset(self._prefix + model, name, value)
        pipe.expire(self._prefix + model, KEEP_S)
        try:
            pipe.execute()
        except RedisError as error:
            self._outage.begin(error)
        else:
            self._outage.end()


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


def complete(
    client: ChatClient, request: ChatRequest, lessons: Lessons, *, timeout_s: float
) -> Reply | Failure:
    """Make a request; repeat it without the fields that the endpoint refuses."""
    while True:
        request = replace(request, refused=lessons.refused(request.model))
        result = client.complete(request, timeout_s=timeout_s)
        refused = result.refused if isinstance(result, Failure) else {}
        if not refused or lessons.learn(request.model, refused) == request.refused:
            return result
