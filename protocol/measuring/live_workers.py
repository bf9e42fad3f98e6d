"""Reads the heartbeats that workers write to Redis (`oyer.tasks.worker.heartbeat`)."""

import json
from typing import TYPE_CHECKING, Any

from oyer.protocol import names

if TYPE_CHECKING:
    from redis import Redis


def workers(client: "Redis") -> dict[str, list[dict[str, Any]]]:
    """Return the running workers, by queue."""
    found: dict[str, list[dict[str, Any]]] = {queue: [] for queue in names.QUEUES}
    keys = [*client.scan_iter(match=names.worker_key("*", "*"), count=1000)]
    # A heartbeat may have expired since.
    for key, entry in zip(keys, client.mget(keys) if keys else (), strict=True):
        queue = key.decode().split(":")[2]
        if entry is not None and queue in found:
            found[queue].append(json.loads(entry))
    return found


def unserved(client: "Redis", queues: list[str]) -> list[str]:
    """Return the queues without a running worker."""
    there = workers(client)
    return [queue for queue in queues if not there[queue]]
