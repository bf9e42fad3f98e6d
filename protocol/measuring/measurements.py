"""Keeps counters and histograms in Redis hashes, for `oyer metrics`.

- Adding to a counter changes a dictionary of this process. A thread writes the sums in one pipeline, so
  that no task and no trainer waits for Redis.
- If Redis fails, the sums stay here and are written later. A killed process loses those of the last
  fraction of a second. What Redis refuses to add is dropped.
- Values only grow. If Redis loses them, they start at 0 again, which Prometheus treats as a reset.
"""

import atexit
import json
import logging
import threading
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from redis import RedisError

from oyer.protocol.measuring.measured import Measured

if TYPE_CHECKING:
    from redis import Redis

log = logging.getLogger(__name__)

COUNTERS_KEY = "oyer:metrics:1"
"""Redis hash of the values without a run; a field is the JSON list of name, labels and part."""

RUNS_KEY = "oyer:metrics:1:runs"
"""Redis sorted set of runs, by the time of their latest change."""

URLS_KEY = "oyer:metrics:1:urls"
"""Redis hash: JSON list of endpoint and URL index, to "answers epoch_s" of the latest chunk."""

RUNS_SHOWN = 50
"""Runs that are exported: those that changed last."""

_RUNS_KEPT = 1000
"""Runs that `RUNS_KEY` keeps."""

_KEEP_S = 14 * 86_400
"""How long Redis keeps a value after its latest change, in seconds."""

_PAUSE_S = 0.25
"""Minimum pause between two writes of a process, in seconds."""

_RETRY_S = 5.0
"""Pause after a failed write, in seconds."""

_EXIT_S = 1.0
"""Maximum time that the end of a process waits for the last write, in seconds."""

_IDLE_S = 30.0
"""The thread ends after this time without a change, in seconds."""


def run_key(run: str) -> str:
    """Redis key of the hash of a run's values."""
    return f"{COUNTERS_KEY}:run:{run}"


@dataclass
class _Sums:
    """What is not written yet."""

    values: Counter[str] = field(default_factory=Counter)
    of_runs: dict[str, Counter[str]] = field(default_factory=dict)
    budgets_usd: dict[str, float] = field(default_factory=dict)
    urls: dict[str, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.values or self.of_runs or self.urls)

    def add_older(self, older: "_Sums") -> None:
        """Add what could not be written."""
        self.values.update(older.values)
        for run, values in older.of_runs.items():
            self.of_runs.setdefault(run, Counter()).update(values)
        self.budgets_usd = older.budgets_usd | self.budgets_usd
        self.urls = older.urls | self.urls


class Measurements:
    """Counters and histograms of one process; created after any fork. Methods never raise."""

    def __init__(self, client: "Redis") -> None:
        self._client = client
        self._sums = _Sums()
        self._lock = threading.Lock()
        self._changed = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._failing = False
        atexit.register(self.close)

    def count(self, measured: Measured, *labels: str, by: float = 1) -> None:
        """Add to a counter; 0 exports it from now on."""
        self._add(measured, labels, {"": by})

    def observe(self, measured: Measured, value_s: float, *labels: str) -> None:
        """Add a value to a histogram."""
        place = bisect_left(measured.buckets_s, value_s)
        self._add(measured, labels, {str(place): 1, "sum": max(0.0, value_s)})

    def note_run(self, run: str, budget_usd: float | None = None) -> None:
        """Note that a run is active, and its current budget if it has one."""
        with self._lock:
            self._sums.of_runs.setdefault(run, Counter())
            if budget_usd is not None:
                self._sums.budgets_usd[run] = budget_usd
        self._wake()

    def note_url(self, endpoint: str, url_index: int, *, answers: bool) -> None:
        """Note whether a base URL of an endpoint answered."""
        with self._lock:
            name = json.dumps([endpoint, url_index])
            self._sums.urls[name] = f"{int(answers)} {time.time():.3f}"
        self._wake()

    def close(self) -> None:
        """Write what is left, and wait for that up to `_EXIT_S`."""
        atexit.unregister(self.close)
        # Without the lock, which a fork may have copied while it was held.
        thread = self._thread
        self._stopping.set()
        self._changed.set()
        if thread is not None:
            thread.join(_EXIT_S)

    def _add(self, measured: Measured, labels: tuple[str, ...], parts: Mapping[str, float]) -> None:
        with self._lock:
            values = self._sums.values
            if measured.per_run:
                values = self._sums.of_runs.setdefault(labels[0], Counter())
                labels = labels[1:]
            for part, by in parts.items():
                values[json.dumps([measured.name, *labels, part], ensure_ascii=False)] += by  # type: ignore[assignment]  # counters take floats
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        with self._lock:
            if self._thread is not None or self._stopping.is_set():
                return
            thread = threading.Thread(target=self._run, name="oyer-metrics", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:  # The process may have no more threads, or ends.
                self._note_failure(logging.INFO, "are written later", error)
            else:
                self._thread = thread

    def _run(self) -> None:
        while True:
            woken = self._changed.wait(_IDLE_S)
            with self._lock:
                if not woken and not self._changed.is_set():
                    self._thread = None
                    return
                self._changed.clear()
                sums, self._sums = self._sums, _Sums()
            written = self._write(sums)
            # Values may have been added while the last ones were written.
            if self._stopping.is_set() and not (written and self._sums):
                return
            self._stopping.wait(_PAUSE_S if written else _RETRY_S)

    def _write(self, sums: _Sums) -> bool:
        if not sums:
            return True
        try:
            replies = self._pipeline(sums).execute(raise_on_error=False)
        except RedisError as error:
            self._note_failure(logging.INFO, "are written later", error)
            with self._lock:
                self._sums.add_older(sums)
            self._changed.set()
            return False
        except Exception:
            # E.g. a name that cannot be encoded. The thread goes on with later values.
            log.exception("metrics are dropped: they cannot be sent to Redis")
            return True
        # Redis has applied the rest of the transaction: sent again, it would count twice.
        refused = [reply for reply in replies if isinstance(reply, Exception)]
        if refused:
            self._note_failure(logging.WARNING, "are dropped", refused[0])
        self._failing = bool(refused)
        return True

    def _note_failure(self, level: int, effect: str, error: Exception) -> None:
        """Log the first of several failures in a row."""
        if not self._failing:
            log.log(level, "metrics %s: %s: %s", effect, type(error).__name__, error)
        self._failing = True

    def _pipeline(self, sums: _Sums) -> Any:
        # As a transaction, so that a lost reply is the only case in which a value is added twice.
        pipe = self._client.pipeline(transaction=True)
        for name, by in sums.values.items():
            pipe.hincrbyfloat(COUNTERS_KEY, name, by)
        for name, state in sums.urls.items():
            pipe.hset(URLS_KEY, name, state)
        for run, values in sums.of_runs.items():
            for name, by in values.items():
                pipe.hincrbyfloat(run_key(run), name, by)
        for run, usd in sums.budgets_usd.items():
            pipe.hset(run_key(run), "budget_usd", usd)
        if sums.of_runs:
            pipe.zadd(RUNS_KEY, dict.fromkeys(sums.of_runs, time.time()))
            pipe.zremrangebyrank(RUNS_KEY, 0, -_RUNS_KEPT - 1)
        for key in (COUNTERS_KEY, URLS_KEY, RUNS_KEY, *map(run_key, sums.of_runs)):
            pipe.expire(key, _KEEP_S)
        return pipe


@dataclass(frozen=True)
class Measurement:
    """One counter, or one part of a histogram."""

    name: str
    labels: tuple[str, ...]
    part: str
    """Empty for a counter; of a histogram, the number of a bucket or `sum`."""
    value: float


@dataclass(frozen=True)
class Recorded:
    """Everything that `Measurements` wrote."""

    values: tuple[Measurement, ...]
    runs: tuple[str, ...]
    """At most `RUNS_SHOWN`, the last to change first."""
    budgets_usd: Mapping[str, float]
    urls: Mapping[tuple[str, int], tuple[bool, float]]
    """Whether a URL answered and when, in epoch seconds, by endpoint and URL index."""


def read_measurements(client: "Redis") -> Recorded:
    """Read all values, in two round trips.

    Raises:
        redis.RedisError: Redis cannot be read.
    """
    pipe = client.pipeline(transaction=False)
    pipe.hgetall(COUNTERS_KEY)
    pipe.hgetall(URLS_KEY)
    pipe.zrevrange(RUNS_KEY, 0, RUNS_SHOWN - 1)
    counters, urls, names = pipe.execute()
    runs = tuple(name.decode() for name in names)
    for run in runs:
        pipe.hgetall(run_key(run))
    of_runs = dict(zip(runs, pipe.execute(), strict=True)) if runs else {}
    budgets = {run: found.pop(b"budget_usd", None) for run, found in of_runs.items()}
    values = [*_measurements(counters)]
    for run, found in of_runs.items():
        values += _measurements(found, run)
    return Recorded(
        values=tuple(values),
        runs=runs,
        budgets_usd={run: float(usd) for run, usd in budgets.items() if usd is not None},
        urls=dict(map(_url, urls.items())),
    )


def _measurements(found: Mapping[bytes, bytes], *run: str) -> Iterator[Measurement]:
    for name, value in found.items():
        measured, *labels, part = json.loads(name)
        yield Measurement(measured, (*run, *labels), part, float(value))


def _url(entry: tuple[bytes, bytes]) -> tuple[tuple[str, int], tuple[bool, float]]:
    endpoint, url_index = json.loads(entry[0])
    answers, at_s = entry[1].split()
    return (endpoint, url_index), (answers == b"1", float(at_s))
