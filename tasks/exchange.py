"""A batch's payloads in Redis, so that task messages stay small and carry only its id.

Everything expires; what is gone is sent again by the trainer, which holds the rollouts.
"""

import json
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from oyer.tasks import payloads, token_ids
from oyer.tasks.errors import BatchFailed, MessageRefused
from oyer.tasks.names import BACKLOG_KEY, batch_key
from oyer.tasks.payloads import Columns, Manifest, Rollout
from oyer.tasks.token_ids import TokenIds

if TYPE_CHECKING:
    from redis import Redis

ENDS = ("cancelled", "failed")
"""How a batch ends before its time: by somebody's wish, or given up by its trainer."""


class Exchange:
    """Reads and writes batches in transit on one Redis."""

    def __init__(self, redis: "Redis", *, expires_s: int) -> None:
        self._redis = redis
        self._expires_s = expires_s

    def post(
        self,
        manifest: Manifest,
        columns: Columns,
        chunks: Sequence[bytes],
        token_ids: Sequence[bytes] = (),
    ) -> None:
        """Store a whole batch in one round trip, before any of its tasks is sent."""
        pipe = self._redis.pipeline(transaction=False)
        blobs = {"manifest": payloads.encode_manifest(manifest)}
        blobs["columns"] = payloads.encode_columns(columns)
        blobs |= {f"chunk:{k}": blob for k, blob in enumerate(chunks)}
        blobs |= {f"tokens:{k}": blob for k, blob in enumerate(token_ids)}
        for part, blob in blobs.items():
            pipe.set(batch_key(manifest.batch_id, part), blob, ex=self._expires_s)
        size_bytes = sum(len(blob) for blob in blobs.values())
        entry = f"{size_bytes} {int(time.time()) + self._expires_s}"
        pipe.hset(BACKLOG_KEY, manifest.batch_id, entry)
        pipe.expire(BACKLOG_KEY, self._expires_s)
        pipe.execute()

    def backlog_bytes(self) -> int:
        """Add up the payloads of all batches under way; those that expired are struck off."""
        entries = {
            batch_id: [int(number) for number in entry.split()]
            for batch_id, entry in self._redis.hgetall(BACKLOG_KEY).items()
        }
        now_s = time.time()
        expired = [batch_id for batch_id, (_, until_s) in entries.items() if until_s < now_s]
        if expired:
            self._redis.hdel(BACKLOG_KEY, *expired)
        return sum(size for size, until_s in entries.values() if until_s >= now_s)

    def holds(self, batch_id: str) -> bool:
        """Whether a batch's payloads are in Redis."""
        return bool(self._redis.exists(batch_key(batch_id, "manifest")))

    def manifest(self, batch_id: str) -> Manifest:
        """Read a batch's manifest."""
        return payloads.decode_manifest(self._read(batch_id, "manifest"))

    def columns(self, batch_id: str) -> Columns:
        """Read a batch's columns."""
        return payloads.decode_columns(self._read(batch_id, "columns"))

    def rollouts(self, batch_id: str, chunk: int) -> list[Rollout]:
        """Read one chunk of a batch's rollouts."""
        return payloads.decode_rollouts(self._read(batch_id, f"chunk:{chunk}"))

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
        self._redis.set(key, payloads.encode_manifest(manifest), xx=True, keepttl=True)

    def under_way(self, limit: int) -> list[Manifest]:
        """Read the manifests of the latest batches whose payloads are here, newest first."""
        batch_ids = [
            key.decode() for key in self._redis.hkeys(BACKLOG_KEY) if isinstance(key, bytes)
        ]
        if not batch_ids:
            return []
        blobs = self._redis.mget([batch_key(batch_id, "manifest") for batch_id in batch_ids])
        found = [payloads.decode_manifest(blob) for blob in blobs if isinstance(blob, bytes)]
        return sorted(found, key=lambda manifest: -manifest.submitted_at)[:limit]

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

    def discard(self, manifest: Manifest) -> None:
        """Drop the payloads of a batch that has ended; its progress stays readable."""
        chunks = range(len(manifest.chunks))
        parts = ["manifest", "columns", *(f"chunk:{k}" for k in chunks)]
        parts += [f"tokens:{k}" for k in chunks if manifest.token_ids]
        pipe = self._redis.pipeline(transaction=False)
        pipe.unlink(*(batch_key(manifest.batch_id, part) for part in parts))
        pipe.hdel(BACKLOG_KEY, manifest.batch_id)
        pipe.execute()

    def _read(self, batch_id: str, part: str) -> bytes:
        blob = self._redis.get(batch_key(batch_id, part))
        if not isinstance(blob, bytes):
            raise BatchFailed(f"batch {batch_id}: its {part} is no longer in Redis; submit again")
        return blob
