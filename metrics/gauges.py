"""The gauges of `oyer metrics`: current values that a scrape reads from Redis and the record; pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from oyer.tasks.monitoring.backend_status import BackendStatus, EndpointStatus

Value = tuple[tuple[str, ...], float]
"""Label values and the value of one sample."""


@dataclass(frozen=True)
class Gauge:
    """A metric that may fall."""

    name: str
    help: str
    labels: tuple[str, ...] = ()


REDIS_UP = Gauge("oyer_redis_up", "1 if the exporter could read Redis, else 0.")
RECORD_UP = Gauge(
    "oyer_record_up", "1 if the record answers and is at this release's revision, else 0."
)
WORKERS = Gauge("oyer_workers", "Running worker processes.", ("role",))
WORKER_UP = Gauge("oyer_worker_up", "1 for each host with a running worker.", ("role", "host"))
QUEUE_LENGTH = Gauge("oyer_queue_length", "Messages that wait in a queue.", ("queue",))
QUEUE_TAKEN = Gauge(
    "oyer_queue_taken", "Messages that workers took and have not acknowledged.", ("queue",)
)
BATCHES = Gauge(
    "oyer_batches",
    "Batches in flight. `state`: `waiting` (no verdict yet), `judging`, `combining`, `cancelled` or"
    " `failed` (ended early, payloads still in Redis).",
    ("state",),
)
GROUPS_WAITING = Gauge(
    "oyer_groups_waiting", "Incomplete groups that wait for rollouts of other processes."
)
IN_FLIGHT = Gauge(
    "oyer_in_flight", "Calls of an endpoint in flight, over all workers.", ("endpoint",)
)
IN_FLIGHT_LIMIT = Gauge(
    "oyer_in_flight_limit",
    "Limit of calls in flight: `max_in_flight`, or the adaptive limit if that is lower.",
    ("endpoint",),
)
CALLS_WAITING = Gauge("oyer_calls_waiting", "Calls that wait for a permit.", ("endpoint",))
RPM = Gauge("oyer_rpm", "Requests started in the last minute; only if limited.", ("endpoint",))
RPM_LIMIT = Gauge("oyer_rpm_limit", "`requests_per_minute`; only if limited.", ("endpoint",))
TPM = Gauge("oyer_tpm", "Tokens of the last minute's calls; only if limited.", ("endpoint",))
TPM_LIMIT = Gauge("oyer_tpm_limit", "`tokens_per_minute`; only if limited.", ("endpoint",))
ENDPOINT_UP = Gauge(
    "oyer_endpoint_up",
    "1 if a base URL answered an attempt of the latest chunk that called it with a status below 500,"
    " else 0. Absent if it was not called in the last 15 minutes.",
    ("endpoint", "url_index"),
)
BUDGET_USD = Gauge("oyer_budget_usd", "Budget of a run, in US dollars.", ("run",))
BUDGET_REMAINING_USD = Gauge(
    "oyer_budget_remaining_usd", "Budget of a run that is not spent, in US dollars.", ("run",)
)
REUSE_RATIO = Gauge(
    "oyer_reuse_ratio",
    "Share of the judgements that needed a reply and took it from the cache, the record or another"
    " call. Since the counters began; use `oyer_judgements_total` for a period.",
)
BACKLOG_BYTES = Gauge(
    "oyer_backlog_bytes", "Payloads of batches in flight and of incomplete groups, in bytes."
)
BACKLOG_LIMIT_BYTES = Gauge(
    "oyer_backlog_limit_bytes", "`broker.max_backlog_bytes` of the exporter's configuration."
)
REDIS_MEMORY_BYTES = Gauge("oyer_redis_memory_bytes", "Memory that Redis uses, in bytes.")
REDIS_MEMORY_LIMIT_BYTES = Gauge(
    "oyer_redis_memory_limit_bytes", "`maxmemory` of Redis, in bytes; only if set."
)
RECORD_LAG_SECONDS = Gauge(
    "oyer_record_lag_seconds",
    "How long a worker has waited for a read or write of the record that has not ended; the longest."
    " Workers report it every 5 s.",
)
GROUPS = Gauge(
    "oyer_groups", "Groups of two or more trainable rollouts, at a run's latest step.", ("run",)
)
ZERO_SPREAD_GROUPS = Gauge(
    "oyer_zero_spread_groups", "Those of `oyer_groups` whose rewards are all equal.", ("run",)
)

GAUGES = (
    *(REDIS_UP, RECORD_UP, WORKERS, WORKER_UP, QUEUE_LENGTH, QUEUE_TAKEN, BATCHES, GROUPS_WAITING),
    *(IN_FLIGHT, IN_FLIGHT_LIMIT, CALLS_WAITING, RPM, RPM_LIMIT, TPM, TPM_LIMIT, ENDPOINT_UP),
    *(BUDGET_USD, BUDGET_REMAINING_USD, REUSE_RATIO, BACKLOG_BYTES, BACKLOG_LIMIT_BYTES),
    *(REDIS_MEMORY_BYTES, REDIS_MEMORY_LIMIT_BYTES, RECORD_LAG_SECONDS, GROUPS, ZERO_SPREAD_GROUPS),
)

_STATES = {
    "no verdict yet": "waiting",
    "judging": "judging",
    "judged": "combining",
    "cancelled": "cancelled",
    "failed": "failed",
}
"""Label values by `BatchStatus.state`."""


def status_values(status: BackendStatus) -> Iterator[tuple[Gauge, Value]]:
    """Yield the samples of a backend's status."""
    for queue in status.queues:
        yield QUEUE_LENGTH, ((queue.name,), queue.waiting)
        yield QUEUE_TAKEN, ((queue.name,), queue.taken)
        yield WORKERS, ((queue.name,), len(queue.workers))
        for host in sorted({worker.rpartition(":")[0] for worker in queue.workers}):
            yield WORKER_UP, ((queue.name, host), 1)
    states = [batch.state for batch in status.batches]
    for state, label in _STATES.items():
        yield BATCHES, ((label,), states.count(state))
    yield GROUPS_WAITING, ((), status.open_groups)
    lag_s = max((queue.record_wait_s for queue in status.queues), default=0.0)
    yield RECORD_LAG_SECONDS, ((), max(0.0, lag_s))
    yield BACKLOG_BYTES, ((), status.backlog_bytes)
    for endpoint in status.endpoints:
        yield from _endpoint_values(endpoint)


def _endpoint_values(endpoint: EndpointStatus) -> Iterator[tuple[Gauge, Value]]:
    limits = [limit for limit in (endpoint.max_in_flight, endpoint.adaptive_limit) if limit]
    found: Mapping[Gauge, float | None] = {
        IN_FLIGHT: endpoint.in_flight,
        IN_FLIGHT_LIMIT: min(limits, default=None),
        CALLS_WAITING: endpoint.waiting,
        RPM: endpoint.requests,
        RPM_LIMIT: endpoint.requests_per_minute,
        TPM: endpoint.tokens,
        TPM_LIMIT: endpoint.tokens_per_minute,
    }
    for gauge, value in found.items():
        if value is not None:
            yield gauge, ((endpoint.name,), value)


def reuse_ratio(judgements: Mapping[str, float]) -> float:
    """Return the share of the judgements that needed a reply and reused one; 0 if none needed one."""
    needed = sum(n for source, n in judgements.items() if source != "none")
    return 1 - judgements.get("called", 0) / needed if needed else 0.0
