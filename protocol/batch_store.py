"""A batch's payloads in Redis, so that task messages carry only its id.

All keys expire. The trainer still holds the rollouts and resubmits a batch whose payloads are gone.
"""

import json
from collections.abc import Sequence
from importlib import resources
from typing import TYPE_CHECKING, Any, NamedTuple

from oyer.protocol import token_ids
from oyer.protocol.batch import (
    Columns,
    Manifest,
    decode_columns,
    decode_manifest,
    encode_columns,
    encode_manifest,
)
from oyer.protocol.errors import BatchFailed, MessageRefused, Overloaded
from oyer.protocol.names import (
    BACKLOG_ENDS_KEY,
    BACKLOG_KEY,
    FLOWS_KEY,
    JUDGE_QUEUE,
    batch_key,
    flow_key,
)
from oyer.protocol.rollout import Rollout, decode_rollouts
from oyer.protocol.token_ids import TokenIds

if TYPE_CHECKING:
    from redis import Redis

ENDS = ("cancelled", "failed")
"""How a batch ends early: cancelled by a user, or failed by its trainer."""

_SENT_AGAIN_S = 10
"""Minimum time between resubmissions of a batch by two processes, in seconds."""

ABANDONED_S = 3600
"""How long the payloads of an abandoned batch stay, in seconds, so that an operator can resume it."""

ENDED_S = 600
"""How long result and progress of a finished batch stay in Redis after its trainer has read them, in
seconds; later reads use the database."""

_SENT_BYTES = 8 * 2**20
"""Approximate payload bytes per round trip."""


class BatchState(NamedTuple):
    """What Redis holds of a batch under way, as read."""

    held: int
    counts: list[bytes]
    ended: bytes | str | None

    @property
    def judged(self) -> int | None:
        """Number of verdicts so far; None if the payloads are not in Redis."""
        return sum(map(int, self.counts)) if self.held else None

    @property
    def ending(self) -> tuple[str, str] | None:
        """Status and reason of a batch that ended early, else None.

        Raises:
            MessageRefused: it is neither cancelled nor failed.
        """
        if self.ended is None:
            return None
        status, why = json.loads(self.ended)
        if status not in ENDS:
            raise MessageRefused(f"a batch cannot have ended as {status!r:.40}")
        return status, str(why)


COUNTING_SCRIPT = resources.files(__package__).joinpath("counting.lua").read_text()
"""Lua functions that scripts which update the backlog start with."""


class BatchStore:
    """Reads and writes the batches in one Redis."""

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
    ) -> int:
        """Store a batch before any of its tasks is sent.

        Returns:
            Judge messages of all batches that wait for a worker.

        Raises:
            Overloaded: the backlog would exceed `max_backlog_bytes`; nothing was stored.
        """
        blobs = {"manifest": encode_manifest(manifest)}
        blobs["columns"] = encode_columns(columns)
        blobs |= {f"chunk:{k}": blob for k, blob in enumerate(chunks)}
        blobs |= {f"tokens:{k}": blob for k, blob in enumerate(token_ids)}
        size_bytes = sum(len(blob) for blob in blobs.values())
        waiting = self._backlog.enter(manifest.batch_id, size_bytes, max_backlog_bytes)
        pipe, unsent = self._redis.pipeline(transaction=False), 0
        for part, blob in blobs.items():
            pipe.set(batch_key(manifest.batch_id, part), blob, ex=self._expires_s)
            unsent += len(blob)
            # redis-py joins the commands of a pipeline before it sends them, which doubles memory.
            if unsent > _SENT_BYTES:
                pipe.execute()
                unsent = 0
        pipe.execute()
        return waiting

    def backlog_bytes(self) -> int:
        """Return the payload bytes of all batches in flight and of incomplete groups."""
        return self._backlog.held_bytes()

    def abandon(self, batch_id: str) -> None:
        """Remove a batch from the backlog; its payloads stay for `ABANDONED_S`."""
        self._backlog.leave(batch_id)
        try:
            manifest = self.manifest(batch_id)
        except (BatchFailed, MessageRefused):
            # The payloads are gone, or unreadable and expire by themselves.
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

    def only_chunk(self, batch_id: str) -> tuple[Columns, list[Rollout]]:
        """Read columns and rollouts of a batch of one chunk, in one round trip."""
        columns, chunk = self._read_all(batch_id, "columns", "chunk:0")
        return decode_columns(columns), decode_rollouts(chunk)

    def token_ids(self, manifest: Manifest) -> TokenIds | None:
        """Read a batch's token ids; None if it has none."""
        if not manifest.token_ids:
            return None
        chunks = range(len(manifest.chunks))
        return token_ids.decode([self._read(manifest.batch_id, f"tokens:{k}") for k in chunks])

    def report(self, batch_id: str, chunk: int, judged: int) -> None:
        """Set the number of verdicts of a chunk; idempotent."""
        key = batch_key(batch_id, "progress")
        pipe = self._redis.pipeline(transaction=False)
        pipe.hset(key, str(chunk), str(judged))
        pipe.expire(key, self._expires_s)
        pipe.execute()

    def judged(self, batch_id: str) -> int:
        """Return the number of verdicts so far."""
        return sum(int(n) for n in self._redis.hvals(batch_key(batch_id, "progress")))

    def states(self, batch_ids: Sequence[str]) -> list[BatchState]:
        """Read the state of each batch, all in one round trip."""
        pipe = self._redis.pipeline(transaction=False)
        for batch_id in batch_ids:
            pipe.exists(batch_key(batch_id, "manifest"))
            pipe.hvals(batch_key(batch_id, "progress"))
            pipe.get(batch_key(batch_id, "ended"))
        replies = pipe.execute()
        return [BatchState(*replies[i : i + 3]) for i in range(0, len(replies), 3)]

    def replace_manifest(self, manifest: Manifest) -> None:
        """Replace a batch's manifest and keep its expiry; do nothing if the batch is gone."""
        key = batch_key(manifest.batch_id, "manifest")
        self._redis.set(key, encode_manifest(manifest), xx=True, keepttl=True)

    def under_way(self, limit: int) -> list[Manifest]:
        """Read the manifests of the latest batches in Redis, newest first."""
        batch_ids = [
            key.decode() for key in self._redis.hkeys(BACKLOG_KEY) if isinstance(key, bytes)
        ]
        if not batch_ids:
            return []
        blobs = self._redis.mget([batch_key(batch_id, "manifest") for batch_id in batch_ids])
        found = [decode_manifest(blob) for blob in blobs if isinstance(blob, bytes)]
        return sorted(found, key=lambda manifest: -manifest.submitted_at)[:limit]

    def unfinished(self) -> set[str]:
        """Return the ids of batches in flight and of batches that ended early."""
        found = {key.decode() for key in self._redis.hkeys(BACKLOG_KEY) if isinstance(key, bytes)}
        for key in self._redis.scan_iter(match=batch_key("*", "ended"), count=1000):
            found.add(key.decode().removeprefix(batch_key("", "")[:-1]).removesuffix(":ended"))
        return found

    def end(self, batch_id: str, status: str, why: str) -> None:
        """Mark a batch as `cancelled` or `failed`: workers start no further call for it."""
        key = batch_key(batch_id, "ended")
        self._redis.set(key, json.dumps([status, why]), ex=self._expires_s)

    def ending(self, batch_id: str) -> tuple[str, str] | None:
        """Return status and reason of a batch that ended early, else None."""
        return BatchState(0, [], self._redis.get(batch_key(batch_id, "ended"))).ending

    def reopen(self, batch_id: str) -> None:
        """Remove the mark of `end`, so that workers start calls again."""
        self._redis.delete(batch_key(batch_id, "ended"))

    def may_send_again(self, batch_id: str, who: str) -> bool:
        """Reserve a resubmission for `who`; False if another process resubmitted just now."""
        key = batch_key(batch_id, "sent_again")
        if self._redis.set(key, who, nx=True, ex=_SENT_AGAIN_S):
            return True
        return bool(self._redis.get(key) in (None, who.encode()))

    def discard(self, manifest: Manifest) -> None:
        """Delete the payloads of a finished batch; progress and ending stay for `ENDED_S`."""
        pipe = self._redis.pipeline(transaction=False)
        pipe.unlink(*_keys(manifest))
        for part in ("progress", "ended"):
            pipe.expire(batch_key(manifest.batch_id, part), min(ENDED_S, self._expires_s))
        self._backlog.leave(manifest.batch_id, pipe)
        pipe.execute()

    def _read(self, batch_id: str, part: str) -> bytes:
        [blob] = self._read_all(batch_id, part)
        return blob

    def _read_all(self, batch_id: str, *parts: str) -> list[bytes]:
        blobs = self._redis.mget([batch_key(batch_id, part) for part in parts])
        found = [blob for blob in blobs if isinstance(blob, bytes)]
        if len(found) < len(parts):
            part = next(p for p, blob in zip(parts, blobs, strict=True) if blob not in found)
            raise BatchFailed(f"batch {batch_id}: its {part} is no longer in Redis; submit again")
        return found


def _keys(manifest: Manifest) -> list[str]:
    chunks = range(len(manifest.chunks))
    parts = ["manifest", "columns", *(f"chunk:{k}" for k in chunks)]
    parts += [f"tokens:{k}" for k in chunks if manifest.token_ids]
    return [batch_key(manifest.batch_id, part) for part in parts]


class Backlog:
    """Counts the payload bytes in flight on a broker, so that trainers together cannot fill it.

    The script that stores the rollouts of incomplete groups counts them as well.
    """

    def __init__(self, redis: "Redis", *, expires_s: int) -> None:
        self._redis = redis
        self._expires_s = expires_s
        text = resources.files(__package__).joinpath("backlog.lua").read_text()
        self._script = redis.register_script(COUNTING_SCRIPT + text)

    def enter(self, batch_id: str, size_bytes: int, max_bytes: int | None) -> int:
        """Add a batch; a resubmission replaces its earlier size.

        Returns:
            Judge messages of all batches that wait for a worker.

        Raises:
            Overloaded: the backlog would exceed `max_bytes`.
        """
        limit = "" if max_bytes is None else max_bytes
        counted, held_bytes, waiting = self._call(batch_id, size_bytes, self._expires_s, limit)
        if counted:
            return int(waiting)
        if size_bytes > (max_bytes or 0):
            raise Overloaded(
                f"the batch is {size_bytes} bytes, packed, more than broker.max_backlog_bytes ="
                f" {max_bytes}: submit it in parts, or raise the limit as far as Redis has memory"
            )
        raise Overloaded(
            f"{held_bytes} bytes of rollouts are in flight; with the {size_bytes} of this batch, that is"
            f" more than broker.max_backlog_bytes = {max_bytes}: wait for earlier batches, start"
            " more workers, or raise the limit as far as Redis has memory"
        )

    def leave(self, batch_id: str, client: Any = None) -> None:
        """Remove a batch; idempotent.

        Args:
            client: a pipeline to use.
        """
        self._call(batch_id, "", 0, "", client=client)

    def held_bytes(self) -> int:
        """Return the payload bytes of all batches in flight and of incomplete groups."""
        held: int = self._call("", "", 0, "")[1]
        return held

    def _call(self, *args: str | int, client: Any = None) -> Any:
        keys = [BACKLOG_KEY, BACKLOG_ENDS_KEY, JUDGE_QUEUE, FLOWS_KEY]
        return self._script(keys=keys, args=[*args, flow_key("")], client=client)
