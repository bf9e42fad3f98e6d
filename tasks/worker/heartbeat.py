"""A worker's heartbeat in Redis, from which `oyer.protocol.measuring.live_workers` lists running workers."""

import json
import logging
import os
import socket
import threading
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import redis

from oyer.protocol import names
from oyer.protocol.errors import InvalidConfig
from oyer.tasks.worker.context import WorkerContext
from oyer.tasks.worker.device import describe
from oyer.tasks.worker.storage_retry import retry_storage

log = logging.getLogger(__name__)

_TTL_S = 15
"""Lifetime of a heartbeat, in seconds; it is renewed three times within it."""


class Heartbeat:
    """Announces this process on its queues until it stops.

    Args:
        lease_s: lease time of this worker's messages, in seconds.
    """

    def __init__(self, context: WorkerContext, queues: Sequence[str], lease_s: int) -> None:
        self._context = context
        self._queues = queues
        self._keys = [names.worker_key(queue, context.name) for queue in queues]
        self._lease_s = lease_s
        self._stopped = threading.Event()

    def start(self) -> None:
        """Announce this process, and renew that in the background.

        Raises:
            InvalidConfig: running workers lease their messages for another time.
        """
        retry_storage(self._check_lease)
        is_length = names.LENGTH_QUEUE in self._queues
        entry = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "version": version("oyer"),
            "device": describe(self._context.device) if is_length else None,
        }
        retry_storage(self._write, entry)
        thread = threading.Thread(target=self._renew, args=(entry,), name="oyer-heartbeat")
        thread.daemon = True
        thread.start()

    def stop(self) -> None:
        """Remove the announcement."""
        self._stopped.set()
        try:
            self._context.redis.delete(*self._keys)
        except redis.RedisError as error:
            log.info("heartbeat left to expire: %s", error)

    def _check_lease(self) -> None:
        """Refuse to run beside workers with another lease time.

        Each worker returns all expired messages to their queues, so the shortest lease would return
        messages that other workers still process.
        """
        client = self._context.redis
        client.set(names.LEASE_KEY, self._lease_s, nx=True, ex=_TTL_S)
        agreed = client.get(names.LEASE_KEY)
        if agreed is not None and int(agreed) != self._lease_s:
            raise InvalidConfig(
                f"the workers on this broker lease messages for {int(agreed)} s, this one for"
                f" {self._lease_s} s; run the same release on all of them, or stop the others"
                f" and wait {_TTL_S} s"
            )

    def _renew(self, entry: dict[str, Any]) -> None:
        while not self._stopped.wait(_TTL_S / 3):
            try:
                self._write(entry)
            except redis.RedisError as error:
                log.warning("heartbeat not renewed: %s", type(error).__name__)

    def _write(self, entry: dict[str, Any]) -> None:
        client = self._context.redis
        client.set(names.LEASE_KEY, self._lease_s, ex=_TTL_S)
        since = self._context.waits_for_record_since
        text = json.dumps({**entry, "waits_for_record_since": since})
        for key in self._keys:
            client.set(key, text, ex=_TTL_S)
