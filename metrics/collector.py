"""Reads Redis and the record at each scrape, and returns their values as Prometheus metrics.

- A scrape reads hashes and keys of fixed number, the batches in flight, and one index range per run. It
  never reads judgements.
- A part that cannot be read is left out, with `oyer_redis_up` or `oyer_record_up` at 0.
"""

import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from redis import Redis, RedisError
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from oyer.config.reward import RewardConfig
from oyer.metrics import gauges
from oyer.metrics.gauges import Gauge, Value
from oyer.models.engine import reading
from oyer.models.queries import latest_groups
from oyer.protocol.batch import TRAINING_SPLITS
from oyer.protocol.errors import OyerError
from oyer.protocol.measuring import measured
from oyer.protocol.measuring.measured import MEASURED, Measured
from oyer.protocol.measuring.measurements import Measurement, Recorded, read_measurements
from oyer.protocol.names import CHECK_RUN
from oyer.tasks.coordination.budget import budget_key
from oyer.tasks.monitoring.backend_status import run_status
from oyer.tasks.monitoring.readiness import record_problem
from oyer.tasks.monitoring.status_reader import read_status

log = logging.getLogger(__name__)

_URL_AGE_S = 900.0
"""A base URL's last answer is exported for this long, in seconds."""

_Found = list[tuple[Gauge, Value]]


class BackendCollector(Collector):
    """Collects the metrics of one backend.

    Args:
        client: returns bytes.
        engine: the record.
        config: names the endpoints and the backlog's limit.
    """

    def __init__(self, client: Redis, engine: Engine, config: RewardConfig) -> None:
        self._client = client
        self._engine = engine
        self._config = config

    def describe(self) -> Iterable[Metric]:
        """Return nothing, so that registering does not read the backend."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics."""
        recorded, found = self._from_redis()
        if recorded is not None:
            yield from (_counter_or_histogram(one, recorded.values) for one in MEASURED)
        found += self._from_record(recorded.runs if recorded is not None else ())
        values: dict[str, list[Value]] = defaultdict(list)
        for gauge, value in found:
            values[gauge.name].append(value)
        for gauge in gauges.GAUGES:
            family = GaugeMetricFamily(gauge.name, gauge.help, labels=gauge.labels)
            for labels, number in values[gauge.name]:
                family.add_metric(labels, number)
            yield family

    def _from_redis(self) -> tuple[Recorded | None, _Found]:
        """Return the counters, and the values of gauges.

        Without Redis there are no counters: at 0, Prometheus would take them for restarted and count
        everything again once Redis is back.
        """
        found: _Found = []
        try:
            recorded = read_measurements(self._client)
            found += self._status(recorded)
        except (RedisError, OyerError) as error:
            log.warning("Redis could not be read: %s", error)
            return None, [(gauges.REDIS_UP, ((), 0))]
        return recorded, [*found, (gauges.REDIS_UP, ((), 1))]

    def _status(self, recorded: Recorded) -> _Found:
        config = self._config
        endpoints = {*config.endpoints, *(judge.endpoint for judge in config.judges)}
        status = read_status(self._client, endpoints | {name for name, _ in recorded.urls})
        found = [*gauges.status_values(status)]
        found += self._budgets(recorded, status.at_s)
        for (endpoint, url_index), (answers, at_s) in sorted(recorded.urls.items()):
            if status.at_s - at_s < _URL_AGE_S:
                found.append((gauges.ENDPOINT_UP, ((endpoint, str(url_index)), int(answers))))
        memory = self._client.info("memory")
        if memory.get("maxmemory"):
            found.append((gauges.REDIS_MEMORY_LIMIT_BYTES, ((), memory["maxmemory"])))
        found += [
            (gauges.REDIS_MEMORY_BYTES, ((), memory["used_memory"])),
            (gauges.BACKLOG_LIMIT_BYTES, ((), config.broker.max_backlog_bytes)),
            (gauges.REUSE_RATIO, ((), gauges.reuse_ratio(_sources(recorded.values)))),
        ]
        return found

    def _budgets(self, recorded: Recorded, now_s: float) -> _Found:
        """Return what is left of each budget; of a run's spending only, if Redis counts it."""
        budgets_usd = {run: usd for run, usd in recorded.budgets_usd.items() if run != CHECK_RUN}
        pipe = self._client.pipeline(transaction=False)
        for run in budgets_usd:
            pipe.hgetall(budget_key(run))
        found: _Found = []
        for (run, usd), state in zip(budgets_usd.items(), pipe.execute(), strict=True):
            spent_usd = run_status(run, usd, state, now_s).spent_usd
            if spent_usd is not None:
                found.append((gauges.BUDGET_USD, ((run,), usd)))
                found.append((gauges.BUDGET_REMAINING_USD, ((run,), max(0.0, usd - spent_usd))))
        return found

    def _from_record(self, runs: Iterable[str]) -> _Found:
        problem = record_problem(self._engine)
        if problem is None:
            try:
                with reading(self._engine) as conn:
                    groups = latest_groups(conn, runs, TRAINING_SPLITS)
            except SQLAlchemyError as error:
                problem = f"the record does not answer: {error}"
        if problem is not None:
            log.warning("%s", problem)
            return [(gauges.RECORD_UP, ((), 0))]
        found: _Found = [(gauges.RECORD_UP, ((), 1))]
        for run, (n, without_spread) in groups.items():
            found.append((gauges.GROUPS, ((run,), n)))
            found.append((gauges.ZERO_SPREAD_GROUPS, ((run,), without_spread)))
        return found


def _sources(values: Iterable[Measurement]) -> Mapping[str, float]:
    """Add up the judgements by source."""
    sources: Counter[str] = Counter()
    for one in values:
        if one.name == measured.JUDGEMENTS.name:
            sources[one.labels[-1]] += one.value  # type: ignore[assignment]  # counters take floats
    return sources


def _counter_or_histogram(one: Measured, values: Iterable[Measurement]) -> Metric:
    parts: dict[tuple[str, ...], dict[str, float]] = {labels: {} for labels in one.known}
    for value in values:
        # Another release may have written other labels.
        if value.name == one.name and len(value.labels) == len(one.labels):
            parts.setdefault(value.labels, {})[value.part] = value.value
    if not one.buckets_s:
        counter = CounterMetricFamily(one.name, one.help, labels=one.labels)
        for labels, found in parts.items():
            counter.add_metric(labels, found.get("", 0.0))
        return counter
    histogram = HistogramMetricFamily(one.name, one.help, labels=one.labels)
    for labels, found in parts.items():
        histogram.add_metric(labels, _buckets(one, found), found.get("sum", 0.0))
    return histogram


def _buckets(one: Measured, found: Mapping[str, float]) -> list[tuple[str, float]]:
    """Return the cumulative buckets of a histogram."""
    total, buckets = 0.0, []
    for place, bound in enumerate([*map(float, one.buckets_s), float("inf")]):
        total += found.get(str(place), 0.0)
        buckets.append(("+Inf" if bound == float("inf") else str(bound), total))
    return buckets
