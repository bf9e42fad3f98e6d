"""A backend whose workers are processes that a test can kill one by one."""

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import text

from oyer.config.loading import CONFIG_VARIABLE
from oyer.demo.judge_server import JudgeServer
from oyer.manager import RewardBatch, RewardFuture, RewardManager
from oyer.models.engine import open_engine, reading
from oyer.protocol import names
from oyer.protocol.measuring import live_workers
from tests.support.fault_servers import RedisServer
from tests.support.fault_worker import Worker
from tests.support.rollouts import rollouts_of
from tests.support.tcp_proxy import TcpProxy
from tests.support.waiting import wait_until

KEY = "sk-sentinel-7f3a91c2"
"""The judge's key, which must be found only in the workers' environment."""

JUDGE_IN_FLIGHT = 16
"""Calls under way at once, over all judge workers."""


class Backend:
    """Workers on one Redis and one database, with a scripted judge."""

    def __init__(
        self,
        folder: Path,
        redis: RedisServer,
        store_url: str,
        judge: JudgeServer,
        *,
        proxy: TcpProxy | None = None,
        hedged: bool = True,
        **config: Any,
    ) -> None:
        self.folder = folder
        self.redis = redis
        self.judge = judge
        self.proxy = proxy
        self.store_url = store_url
        endpoints = {"fake": (judge.port, 60.0), "impatient": (judge.port, 1.0)}
        if proxy is not None:
            endpoints["proxy"] = (proxy.port, 3.0)
        self.config: dict[str, Any] = {
            "endpoints": {
                name: {
                    "base_url": f"http://127.0.0.1:{port}/v1",
                    "max_in_flight": JUDGE_IN_FLIGHT,
                    "timeout_s": timeout_s,
                    "max_attempts": 20,
                    "api_key_env": "OYER_FAULTS_KEY",
                }
                for name, (port, timeout_s) in endpoints.items()
            },
            "judges": [{"name": "q", "endpoint": "fake", "model": "m", "reasks": 0}],
            "length": {"method": "median_band"},
            "broker": {"url": redis.url},
            "store": {"url": store_url},
            # No reuse, so that a batch can be scored a second time.
            "reuse": "off",
            "stall_timeout_s": 5,
            **config,
        }
        if hedged:  # earlier releases refuse the key
            hedge = {"after": 0.3, "at_most": "100%"}
            fake = self.config["endpoints"]["fake"]
            self.config["endpoints"]["hedged"] = {**fake, "hedge": hedge}
        self.workers: list[Worker] = []
        self._environ = {
            **os.environ,
            CONFIG_VARIABLE: str(folder / "oyer.json"),
            "OYER_FAULTS_KEY": KEY,
        }
        RewardManager(self.config)
        (folder / "oyer.json").write_text(json.dumps(self.config))

    def start(
        self,
        kind: str,
        *patch: str,
        host: Sequence[str] = (),
        concurrency: int | None = None,
        loglevel: str = "INFO",
        **environ: str,
    ) -> Worker:
        """Start a worker; `wait_ready` waits for it.

        Args:
            patch: arguments of `tests.support.patched_worker`; none for a plain worker.
            host: a command that runs another one on another host.
            concurrency: tasks under way at once; the kind's default when left out.
            loglevel: least level that it logs; on DEBUG, each task that arrives.
            environ: further environment variables.
        """
        name = f"{kind}-{len(self.workers)}"
        log = self.folder / f"{name}.log"
        environ = {**self._environ, **environ}
        worker = Worker(kind, name, environ, log, patch, host, concurrency, loglevel)
        self.workers.append(worker)
        return worker

    def complete(self) -> None:
        """Start missing workers: two judge workers and one of each other kind, all ready."""
        wanted = {names.JUDGE_QUEUE: 2, names.LENGTH_QUEUE: 1, names.COMBINE_QUEUE: 1}
        for kind, count in wanted.items():
            for _ in range(count - len(self.living(kind))):
                self.start(kind)
        self.wait_ready()

    def living(self, kind: str) -> list[Worker]:
        """Return the workers of a kind whose process runs."""
        return [worker for worker in self.workers if worker.kind == kind and worker.alive]

    def announced(self) -> set[int]:
        """Return the process ids of the workers with a heartbeat."""
        found = live_workers.workers(self.redis.client)
        return {entry["pid"] for entries in found.values() for entry in entries}

    def wait_ready(self, timeout_s: float = 180.0) -> None:
        """Wait until every living worker has announced itself."""

        def ready() -> bool:
            there = self.announced()
            return all(w.process.pid in there or not w.alive for w in self.workers)

        wait_until(ready, "workers ready", timeout_s)

    def start_over(self) -> None:
        """Kill every worker and empty Redis."""
        for worker in self.workers:
            worker.kill()
        self.redis.client.flushall()

    def stop(self) -> None:
        """End every worker."""
        for worker in self.workers:
            if worker.alive:
                worker.send(signal.SIGCONT)
                worker.send(signal.SIGTERM)
        for worker in self.workers:
            try:
                worker.process.wait(20)
            except subprocess.TimeoutExpired:
                worker.kill()

    def manager(self, **changes: Any) -> RewardManager:
        """Return a trainer's manager."""
        return RewardManager({**self.config, **changes})

    def read(self, query: str, **values: Any) -> list[dict[str, Any]]:
        """Run a query on the record."""
        engine = open_engine(self.store_url)
        try:
            with reading(engine) as conn:
                return [dict(row) for row in conn.execute(text(query), values).mappings()]
        finally:
            engine.dispose()

    def half_way(self, tag: str, n: int, **changes: Any) -> RewardFuture:
        """Submit `n` rollouts and return when one share is judged and one is in flight."""
        rule = {"when": {"sequence": [JUDGE_IN_FLIGHT, 10**6]}, "then": {"hold": True}}
        self.judge.set_plan({"rules": [rule]})
        future = self.manager(**changes).submit(rollouts_of(tag, n))
        self.judge.wait_until(lambda log: len(log) == 2 * JUDGE_IN_FLIGHT)
        return future

    def go_on(self) -> None:
        """Let the judge answer held and later calls at once."""
        self.judge.set_plan({})
        self.judge.release()

    def check(self, batch: RewardBatch, expected: RewardBatch, *, calls: range) -> None:
        """Assert that a batch with a fault ended like the one without, and left nothing behind.

        Args:
            calls: how many requests the judge may have received.
        """
        np.testing.assert_array_equal(batch.rewards, expected.rewards)
        np.testing.assert_array_equal(batch.judge_scores, expected.judge_scores)
        assert batch.statuses == expected.statuses
        for table in ("rewards", "judgements", "rollouts"):
            rows = self.read(
                f"SELECT rollout_index FROM {table} WHERE batch_id = :id ORDER BY 1", id=batch.id
            )
            assert [row["rollout_index"] for row in rows] == list(range(len(batch))), table
        (state,) = self.read("SELECT status FROM batches WHERE id = :id", id=batch.id)
        assert state["status"] == "finished"
        received = len(self.judge.requests)
        assert received in calls, f"{received} calls"
        self.wait_clean()

    def strays(self) -> list[int]:
        """Return the processes of this backend that are not among its living workers."""
        known = {worker.process.pid for worker in self.workers if worker.alive}
        mark = f"{CONFIG_VARIABLE}={self._environ[CONFIG_VARIABLE]}".encode()
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            # A process may end during the look.
            with contextlib.suppress(OSError):
                if mark in (entry / "environ").read_bytes() and int(entry.name) not in known:
                    found.append(int(entry.name))
        return found

    def wait_clean(self) -> None:
        """Wait until no message is left; the leases of dead workers expire."""
        client = self.redis.client

        def clean() -> bool:
            flows = [*client.scan_iter(names.flow_key("*"), count=1000)]
            return not flows and not client.exists(
                *names.QUEUES, names.FLOWS_KEY, "unacked", "unacked_index"
            )

        wait_until(clean, "no message left", 60)
        wait_until(lambda: not self.strays(), "no process left")
        for key in client.scan_iter("oyer:flight:*", count=1000):
            assert 0 < int(client.pttl(key)) <= 15_000 or not client.exists(key), key
        payloads = [*client.scan_iter("oyer:batch:*:chunk:*", count=1000)]
        assert not payloads, payloads
