"""A batch's payloads in Redis, so that task messages stay small and carry only its id.

Everything expires; what is gone is sent again by the trainer, which holds the rollouts.
"""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from oyer.protocol import token_ids
from oyer.protocol.backlog import Backlog
from oyer.protocol.batch import (
    Columns,
    Manifest,
    decode_columns,
    decode_manifest,
    encode_columns,
    encode_manifest,
)
from oyer.protocol.errors import BatchFailed, MessageRefused
from oyer.protocol.names import BACKLOG_KEY, batch_key
from oyer.protocol.rollout import Rollout, decode_rollouts
from oyer.protocol.token_ids import TokenIds

if TYPE_CHECKING:
    from redis import Redis

ENDS = ("cancelled", "failed")
"""How a batch ends before its time: by somebody's wish, or given up by its trainer."""

_SENT_AGAIN_S = 10
"""For so long after one process sent a batch again, no other does, in seconds."""


ABANDONED_S = 3600
"""How long an operator can resume a batch that was given up, in seconds."""

ENDED_S = 600
"""How long result and progress of a batch that has ended stay in Redis once its trainer has them,
in seconds; what is asked for later is read from the record."""

_SENT_BYTES = 8 * 2**20
"""Payloads sent in one round trip, about."""


class BatchStore:
    """Reads and writes batches in transit on one Redis."""

    def __init__(self, redis: "Redis", *, expires_s: int) -> None:
        self._redis = redis
        self._expires_s = expires_s
        self._backlog = Backlog(redis, expires_s=expires_s)

    def post(
        self,
        manifest: Manifest,
        columns: Columns,
        chunks: Sequence[bytes],
        token_ids: Sequence[bytes] = (),
        max_backlog_bytes: int | None = None,
    ) -> None:
        """Store a whole batch before any of its tasks is sent.

        Raises:
            Overloaded: more than `max_backlog_bytes` would be under way; nothing was stored.
        """
        blobs = {"manifest": encode_manifest(manifest)}
        blobs["columns"] = encode_columns(columns)
        blobs |= {f"chunk:{k}": blob for k, blob in enumerate(chunks)}
        blobs |= {f"tokens:{k}": blob for k, blob in enumerate(token_ids)}
        size_bytes = sum(len(blob) for blob in blobs.values())
        self._backlog.enter(manifest.batch_id, size_bytes, max_backlog_bytes)
        pipe, unsent = self._redis.pipeline(transaction=False), 0
        for part, blob in blobs.items():
            pipe.set(batch_key(manifest.batch_id, part), blob, ex=self._expires_s)
            unsent += len(blob)
            # redis-py puts all that is sent at once together first, which doubles it in memory.
            if unsent > _SENT_BYTES:
                pipe.execute()
                unsent = 0
        pipe.execute()

    def backlog_bytes(self) -> int:
        """Add up the payloads of all batches under way, and of groups that are incomplete."""
        return self._backlog.held_bytes()

    def abandon(self, batch_id: str) -> None:
        """Count out a batch that nobody waits for; its payloads stay a while, for an operator."""
        self._backlog.leave(batch_id)
        try:
            manifest = self.manifest(batch_id)
        except (BatchFailed, MessageRefused):
            # They are gone, or cannot be read and expire by themselves.
            return
        pipe = self._redis.pipeline(transaction=False)
        for key in _keys(manifest):
            pipe.expire(key, min(ABANDONED_S, self._expires_s))
        pipe.execute()

    def holds(self, batch_id: str) -> bool:
        """Whether a batch's payloads are in Redis."""
        return bool(self._redis.exists(batch_key(batch_id, "manifest")))

    def manifest(self, batch_id: str) -> Manifest:
        """Read a batch's manifest."""
        return decode_manifest(self._read(batch_id, "manifest"))

    def columns(self, batch_id: str) -> Columns:
        """Read a batch's columns."""
        return decode_columns(self._read(batch_id, "columns"))

    def rollouts(self, batch_id: str, chunk: int) -> list[Rollout]:
        """Read one chunk of a batch's rollouts."""
        return decode_rollouts(self._read(batch_id, f"chunk:{chunk}"))

    def token_ids(self, manifest: Manifest) -> TokenIds | None:
        """Read a batch's token ids; None where none were sent."""
        if not manifest.token_ids:
            return None
        chunks = range(len(manifest.chunks))
        return token_ids.decode([self._read(manifest.batch_id, f"tokens:{k}") for k in chunks])

    def report(self, batch_id: str, chunk: int, judged: int) -> None:
        """Say how many verdicts a chunk has reached; said twice, it counts once."""
        key = batch_key(batch_id, "progress")
        pipe = self._redis.pipeline(transaction=False)
        pipe.hset(key, str(chunk), str(judged))
        pipe.expire(key, self._expires_s)
        pipe.execute()

    def judged(self, batch_id: str) -> int:
        """Count the verdicts reached so far."""
        return sum(int(n) for n in self._redis.hvals(batch_key(batch_id, "progress")))

    def replace_manifest(self, manifest: Manifest) -> None:
        """Store a batch's next manifest for as long as its payloads stay; if they left, do nothing."""
        key = batch_key(manifest.batch_id, "manifest")
        self._redis.set(key, encode_manifest(manifest), xx=True, keepttl=True)

    def under_way(self, limit: int) -> list[Manifest]:
        """Read the manifests of the latest batches whose payloads are here, newest first."""
        batch_ids = [
            key.decode() for key in self._redis.hkeys(BACKLOG_KEY) if isinstance(key, bytes)
        ]
        if not batch_ids:
            return []
        blobs = self._redis.mget([batch_key(batch_id, "manifest") for batch_id in batch_ids])
        found = [decode_manifest(blob) for blob in blobs if isinstance(blob, bytes)]
        return sorted(found, key=lambda manifest: -manifest.submitted_at)[:limit]

    def unfinished(self) -> set[str]:
        """List the batches under way, and those that were ended before their time."""
        found = {key.decode() for key in self._redis.hkeys(BACKLOG_KEY) if isinstance(key, bytes)}
        for key in self._redis.scan_iter(match=batch_key("*", "ended"), count=1000):
            found.add(key.decode().removeprefix(batch_key("", "")[:-1]).removesuffix(":ended"))
        return found

    def end(self, batch_id: str, status: str, why: str) -> None:
        """Ask the workers to begin no further call for a batch, which was `cancelled` or `failed`."""
        key = batch_key(batch_id, "ended")
        self._redis.set(key, json.dumps([status, why]), ex=self._expires_s)

    def ending(self, batch_id: str) -> tuple[str, str] | None:
        """Say how and why a batch was ended before its time; None where it was not."""
        text = self._redis.get(batch_key(batch_id, "ended"))
        if not isinstance(text, bytes):
            return None
        status, why = json.loads(text)
        if status not in ENDS:
            raise MessageRefused(f"batch {batch_id}: cannot have ended as {status!r:.40}")
        return status, str(why)

    def reopen(self, batch_id: str) -> None:
        """Let the workers begin calls again for a batch that was ended before its time."""
        self._redis.delete(batch_key(batch_id, "ended"))

    def may_send_again(self, batch_id: str, who: str) -> bool:
        """Whether nobody else has sent this batch again just now; then `who` has."""
        key = batch_key(batch_id, "sent_again")
        if self._redis.set(key, who, nx=True, ex=_SENT_AGAIN_S):
            return True
        return bool(self._redis.get(key) in (None, who.encode()))

    def discard(self, manifest: Manifest) -> None:
        """Drop the payloads of a batch that has ended; how it went stays readable for a while."""
        pipe = self._redis.pipeline(transaction=False)
        pipe.unlink(*_keys(manifest))
        for part in ("progress", "ended"):
            pipe.expire(batch_key(manifest.batch_id, part), min(ENDED_S, self._expires_s))
        self._backlog.leave(manifest.batch_id, pipe)
        pipe.execute()

    def _read(self, batch_id: str, part: str) -> bytes:
        blob = self._redis.get(batch_key(batch_id, part))
        if not isinstance(blob, bytes):
            raise BatchFailed(f"batch {batch_id}: its {part} is no longer in Redis; submit again")
        return blob


def _keys(manifest: Manifest) -> list[str]:
    chunks = range(len(manifest.chunks))
    parts = ["manifest", "columns", *(f"chunk:{k}" for k in chunks)]
    parts += [f"tokens:{k}" for k in chunks if manifest.token_ids]
    return [batch_key(manifest.batch_id, part) for part in parts]
