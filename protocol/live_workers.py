"""Reads which workers have announced themselves in Redis (`oyer.tasks.worker.heartbeat`)."""

import json
from typing import TYPE_CHECKING, Any

from oyer.protocol import names

if TYPE_CHECKING:
    from redis import Redis


def workers(client: "Redis") -> dict[str, list[dict[str, Any]]]:
    """Read who is there, by queue."""
    found: dict[str, list[dict[str, Any]]] = {queue: [] for queue in names.QUEUES}
    for queue in names.QUEUES:
        for key in client.scan_iter(match=names.worker_key(queue, "*"), count=1000):
            entry = client.get(key)
            if entry is not None:
                found[queue].append(json.loads(entry))
    return found


def unserved(client: "Redis", queues: list[str]) -> list[str]:
    """Return those of the queues that no worker listens on."""
    there = workers(client)
    return [queue for queue in queues if not there[queue]]
