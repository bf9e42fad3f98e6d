"""Reads the status of a backend from Redis; writes nothing.

Only heartbeats are found by a scan. The other keys follow from the batches in flight and the
endpoints of the caller, so that cached replies do not slow it down.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from redis import Redis, RedisError

from oyer.protocol import names
from oyer.protocol.batch import Manifest, decode_manifest
from oyer.protocol.errors import BackendUnavailable
from oyer.protocol.measuring import live_workers
from oyer.protocol.redis_client import unreachable
from oyer.tasks.coordination.budget import budget_key
from oyer.tasks.coordination.limiter import limits_key
from oyer.tasks.monitoring.backend_status import (
    BackendStatus,
    BatchStatus,
    QueueStatus,
    RunStatus,
    batch_status,
    endpoint_status,
    run_status,
)

_SUM_FIELD = b"sum"
"""Field of the backlog with the sum of the others (`counting.lua`)."""


def read_status(client: Redis, endpoints: Iterable[str] = ()) -> BackendStatus:
    """Read the status of a backend.

    Args:
        client: returns bytes.
        endpoints: endpoints to include besides those of the batches in flight.

    Raises:
        BackendUnavailable: Redis cannot be read.
        MessageRefused: a batch was submitted by another release.
    """
    try:
        return _read(client, endpoints)
    except RedisError as error:
        fix = "start it, or set broker.url to the workers' one"
        raise BackendUnavailable(f"broker.url: {unreachable(error, fix)}") from error


def _read(client: Redis, endpoints: Iterable[str]) -> BackendStatus:
    seconds, micros = client.time()
    now_s = seconds + micros / 1e6
    sizes = _hashes(client, {"backlog": names.BACKLOG_KEY})["backlog"]
    held = [name.decode() for name in sizes if name != _SUM_FIELD]
    group_prefix = names.group_key("")
    manifests = _manifests(client, [name for name in held if not name.startswith(group_prefix)])
    called = {name for manifest in manifests for name in _endpoints_of(manifest)}
    wanted = sorted({*endpoints, *called})
    return BackendStatus(
        at_s=now_s,
        queues=_queues(client, now_s),
        batches=_batches(client, manifests, now_s),
        backlog_bytes=int(sizes.get(_SUM_FIELD, 0)),
        open_groups=sum(name.startswith(group_prefix) for name in held),
        endpoints=tuple(
            endpoint_status(name, state, now_s)
            for name, state in _hashes(client, {name: limits_key(name) for name in wanted}).items()
        ),
        runs=_runs(client, manifests, now_s),
    )


def _manifests(client: Redis, batch_ids: Sequence[str]) -> list[Manifest]:
    if not batch_ids:
        return []
    blobs = client.mget([names.batch_key(batch_id, "manifest") for batch_id in batch_ids])
    # A batch that ended meanwhile is gone.
    found = [decode_manifest(blob) for blob in blobs if isinstance(blob, bytes)]
    return sorted(found, key=lambda manifest: manifest.submitted_at)


def _endpoints_of(manifest: Manifest) -> set[str]:
    judges = manifest.plan["judges"]
    places = [place for judge in judges for place in (judge, judge.get("fallback")) if place]
    return {place["endpoint"] for place in places}


def _hashes(client: Redis, keys: Mapping[str, str]) -> dict[str, Mapping[bytes, bytes]]:
    """Read a hash for each name, in one round trip."""
    pipe = client.pipeline(transaction=False)
    for key in keys.values():
        pipe.hgetall(key)
    return dict(zip(keys, pipe.execute(), strict=True))


def _queues(client: Redis, now_s: float) -> tuple[QueueStatus, ...]:
    # kombu has a list per queue, and one hash of all unacknowledged messages.
    pipe = client.pipeline(transaction=False)
    for queue in names.QUEUES:
        pipe.llen(queue)
    pipe.hvals("unacked")
    pipe.smembers(names.FLOWS_KEY)
    *lengths, entries, flows = pipe.execute()
    for flow in flows:
        pipe.llen(names.flow_key(flow.decode()))
    sorted_by_flow = sum(pipe.execute()) if flows else 0
    taken = Counter(json.loads(entry)[2] for entry in entries)
    present = live_workers.workers(client)
    return tuple(
        QueueStatus(
            name=queue,
            waiting=length + (sorted_by_flow if queue == names.JUDGE_QUEUE else 0),
            taken=taken[queue],
            workers=tuple(sorted(f"{who['host']}:{who['pid']}" for who in present[queue])),
            record_wait_s=_longest_wait_s(present[queue], now_s),
        )
        for queue, length in zip(names.QUEUES, lengths, strict=True)
    )


def _longest_wait_s(workers: Sequence[Mapping[str, Any]], now_s: float) -> float:
    # Workers of earlier releases report no wait.
    since = [who.get("waits_for_record_since") for who in workers]
    return max((now_s - at_s for at_s in since if at_s is not None), default=0.0)


def _batches(client: Redis, manifests: Sequence[Manifest], now_s: float) -> tuple[BatchStatus, ...]:
    pipe = client.pipeline(transaction=False)
    for manifest in manifests:
        pipe.hvals(names.batch_key(manifest.batch_id, "progress"))
        pipe.get(names.batch_key(manifest.batch_id, "ended"))
    read = pipe.execute()
    return tuple(
        batch_status(manifest, sum(map(int, progress)), ended, now_s)
        for manifest, progress, ended in zip(manifests, read[::2], read[1::2], strict=True)
    )


def _runs(client: Redis, manifests: Sequence[Manifest], now_s: float) -> tuple[RunStatus, ...]:
    # The latest batch of a run has its current budget.
    budgets: dict[str, Any] = {manifest.run: manifest.plan.get("budget") for manifest in manifests}
    states = _hashes(client, {run: budget_key(run) for run in budgets})
    return tuple(
        run_status(run, budget and budget["usd"], states[run], now_s)
        for run, budget in sorted(budgets.items())
    )
