"""Measures how well judge processes on several hosts use a limit that they share.

    python benchmarks/shared_limit.py              # 8 processes on 4 hosts, to try it
    python benchmarks/shared_limit.py --full       # 32 processes on 4 hosts

- A host is a network namespace of this machine; its workers reach Redis, PostgreSQL and the judge
  through a proxy over its link. It needs `ip` (iproute2) and the right to make namespaces.
- The judge server logs when each call began and ended. Permits used are the calls under way, over
  time, per permit, from the first call until the last but `max_in_flight` begins: after that there are
  too few calls to fill the limit. The bound is 1.
- More calls at once than permits are an error.
"""

import argparse
import json
import os
import signal
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import redis
from common import REPLY, Figure, print_table, report, rollouts_of

from oyer import migrations
from oyer.config.loading import CONFIG_VARIABLE
from oyer.demo.judge_server import judge_process
from oyer.manager import RewardManager
from oyer.protocol.measuring import live_workers
from tests.support.fault_worker import Worker
from tests.support.network_hosts import second_host
from tests.support.services import postgres_cluster, redis_server
from tests.support.tcp_proxy import TcpProxy

HOSTS = 4
LEAST_USED = 0.95
READY_S = 600.0
"""Longest wait for all workers to announce themselves."""


class Backend:
    """Workers on simulated hosts; what they share is on this one."""

    def __init__(self, stack: ExitStack, folder: Path, in_flight: int, latency_s: float) -> None:
        self._stack, self._folder = stack, folder
        self.log = folder / "judge.jsonl"
        options = ("--latency-s", str(latency_s), "--text", REPLY, "--body-limit-bytes", "0")
        judge_url = stack.enter_context(judge_process(*options, "--log", str(self.log)))
        cluster = stack.enter_context(postgres_cluster())
        stack.enter_context(cluster.running())
        migrations.upgrade(cluster.url)
        self.redis_url = stack.enter_context(redis_server())
        self._ports: dict[str, int | Path] = {
            "judge": int(judge_url.rpartition(":")[2].partition("/")[0]),
            "redis": int(self.redis_url.rpartition(":")[2].partition("/")[0]),
            "record": cluster.socket,
        }
        self.config = {
            "endpoints": {"bench": {"base_url": judge_url, "max_in_flight": in_flight}},
            "judges": [{"name": "q", "endpoint": "bench", "model": "bench"}],
            "length": {"method": "median_band"},
            "broker": {"url": self.redis_url},
            "store": {"url": cluster.url},
        }
        (folder / "oyer.json").write_text(json.dumps(self.config))
        self._workers: list[Worker] = []

    def start(self, processes: int) -> None:
        """Start the judge processes, evenly over the hosts, and one worker of each other kind here."""
        for number in range(HOSTS):
            host = self._stack.enter_context(second_host(number))
            near = {
                name: self._stack.enter_context(TcpProxy(target, host.address))
                for name, target in self._ports.items()
            }
            environ = {
                "OYER_BROKER__URL": f"redis://{host.address}:{near['redis'].port}/0",
                "OYER_STORE__URL": (
                    f"postgresql://postgres@{host.address}:{near['record'].port}/postgres"
                ),
                "OYER_ENDPOINTS__BENCH__BASE_URL": (
                    f"http://{host.address}:{near['judge'].port}/v1"
                ),
            }
            for i in range(processes // HOSTS):
                self._start("judge", f"judge-{number}-{i}", environ, host.through)
        for kind in ("length", "combine"):
            self._start(kind, kind, {}, [])
        deadline = time.monotonic() + READY_S
        with redis.Redis.from_url(self.redis_url) as client:
            while sum(map(len, live_workers.workers(client).values())) < len(self._workers):
                ended = [worker for worker in self._workers if not worker.alive]
                if ended or time.monotonic() > deadline:
                    raise SystemExit(f"workers did not start: {[w.output()[-500:] for w in ended]}")
                time.sleep(0.2)

    def _start(self, kind: str, name: str, environ: dict[str, str], host: list[str]) -> None:
        own = {**os.environ, CONFIG_VARIABLE: str(self._folder / "oyer.json"), **environ}
        log = self._folder / f"{name}.log"
        worker = Worker(kind, name, own, log, (), host, None, "WARNING")
        self._workers.append(worker)
        self._stack.callback(worker.kill)
        self._stack.callback(worker.send, signal.SIGTERM)


def spans_of(log: Path) -> list[tuple[float, float]]:
    """Return when each logged call began and ended, in the order of beginning."""
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    return sorted((entry["arrived_at_s"], entry["finished_at_s"]) for entry in entries)


def permits_used(spans: list[tuple[float, float]], permits: int) -> tuple[float, int]:
    """Return the share of permits used until the last but `permits` call begins, and the most at once."""
    begins, ends = [begin for begin, _ in spans], sorted(end for _, end in spans)
    until = begins[-permits]
    busy_s = sum(min(end, until) - begin for begin, end in spans if begin < until)
    most = ended = 0
    for started, begin in enumerate(begins, 1):
        while ends[ended] <= begin:
            ended += 1
        most = max(most, started - ended)
    return busy_s / (permits * (until - begins[0])), most


def main() -> None:
    """Print the table; the exit status is 1 if the limit was exceeded."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--in-flight", type=int, default=128)
    parser.add_argument("--latency-s", type=float, default=1.0)
    parser.add_argument("--rollouts", type=int, default=1536)
    options = parser.parse_args()
    processes = 32 if options.full else options.processes
    count = 4096 if options.full else options.rollouts
    with tempfile.TemporaryDirectory(prefix="oyer-limit-") as folder, ExitStack() as stack:
        backend = Backend(stack, Path(folder), options.in_flight, options.latency_s)
        backend.start(processes)
        manager = RewardManager(backend.config)
        warm = 4 * options.in_flight
        manager.submit(rollouts_of(warm, "warm"), run="bench").result(timeout_s=600)
        batch = manager.submit(rollouts_of(count, "limit"), run="bench").result(timeout_s=1200)
        if not batch.mask.all():
            raise SystemExit(f"not every rollout was judged: {set(batch.statuses)}")
        spans = spans_of(backend.log)[warm:]
    used, most = permits_used(spans, options.in_flight)
    row = (str(processes), str(HOSTS), str(options.in_flight), str(len(spans)), str(most))
    headings = ("processes", "hosts", "permits", "calls", "most at once", "used", "at least 0.95")
    verdict = "yes" if used >= LEAST_USED else "NO"
    print_table(f"L = {options.latency_s} s", headings, [(*row, f"{used:.3f}", verdict)])
    name = f"permits used by {processes} processes on {HOSTS} hosts"
    report([Figure(name, used, "of the limit", bound=1.0, better="higher")])
    if most > options.in_flight:
        raise SystemExit(f"{most} calls at once, {options.in_flight} permits")


if __name__ == "__main__":
    main()
