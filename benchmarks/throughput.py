"""Measures how long a batch takes against `asyncio.gather` over AsyncOpenAI and against the bound.

    python benchmarks/throughput.py                       # the table of docs/sizing.md
    python benchmarks/throughput.py --rollouts 1024 --in-flight 128 --latency-s 0.5

- The judge server, a process of its own on the same machine, answers every call after
  `--latency-s`; the bound is `ceil(N / C) · L`.
- The peer is one process: `asyncio.gather` over `AsyncOpenAI` with a semaphore of C.
- Oyer's figure is from `submit` to `result`: chord, limits, record and rewards included.
- Rounds alternate, so that a busy machine slows both alike; the table gives medians.
"""

import argparse
import asyncio
import math
import os
import statistics
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from common import Figure, backend, gather, judge, print_table, report, rollouts_of

from oyer.manager import RewardManager, Rollout


@dataclass
class Figures:
    """What the rounds of one setting measured, in seconds."""

    oyer_s: list[float] = field(default_factory=list)
    peer_s: list[float] = field(default_factory=list)
    submit_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)


def oyer_round(manager: RewardManager, rollouts: list[Rollout], figures: Figures) -> None:
    """Time one batch through Oyer."""
    cpu = worker_cpu_s()
    began = time.perf_counter()
    future = manager.submit(rollouts, run="bench")
    figures.submit_s.append(time.perf_counter() - began)
    batch = future.result(timeout_s=600)
    figures.oyer_s.append(time.perf_counter() - began)
    figures.cpu_s.append((worker_cpu_s() - cpu) / len(rollouts))
    if not batch.mask.all() or batch.usage.calls != len(rollouts):
        raise SystemExit(f"not every rollout was judged: {set(batch.statuses)}, {batch.usage}")


def worker_cpu_s() -> float:
    """CPU time of all judge worker processes below this one."""
    tick = os.sysconf("SC_CLK_TCK")
    total = 0
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes().split(b"\0")
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if b"-Q" in command and b"judge" in command:
            total += int(fields[11]) + int(fields[12])
    return total / tick


def peer_round(base_url: str, rollouts: list[Rollout], in_flight: int, figures: Figures) -> None:
    """Time the same calls by `asyncio.gather`."""
    began = time.perf_counter()
    asyncio.run(gather(base_url, rollouts, in_flight))
    figures.peer_s.append(time.perf_counter() - began)


def measure(count: int, in_flight: int, latency_s: float, rounds: int) -> Figures:
    """Alternate Oyer and its peer."""
    figures = Figures()
    with (
        tempfile.TemporaryDirectory() as folder,
        judge(latency_s) as base_url,
        backend(base_url, in_flight, folder) as manager,
    ):
        warm_up = min(count, 256)
        manager.submit(rollouts_of(warm_up, "warm"), run="bench").result(timeout_s=600)
        for number in range(rounds):
            rollouts = rollouts_of(count, f"{number}")
            oyer_round(manager, rollouts, figures)
            peer_round(base_url, rollouts, in_flight, figures)
    return figures


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rollouts", type=int, help="with --in-flight: one setting of your own")
    parser.add_argument("--in-flight", type=int, default=128)
    parser.add_argument("--latency-s", type=float, default=0.5)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    settings = [(1024, 128), (2048, 512)]
    if options.rollouts:
        settings = [(options.rollouts, options.in_flight)]
    headings = (
        "N", "C", "bound s", "Oyer s", "× bound", "gather s", "gather / Oyer", "judgements/s",
        "submit ms", "worker CPU ms/judgement",
    )  # fmt: skip
    rows = []
    for count, in_flight in settings:
        figures = measure(count, in_flight, options.latency_s, options.rounds)
        bound_s = math.ceil(count / in_flight) * options.latency_s
        oyer_s, peer_s = statistics.median(figures.oyer_s), statistics.median(figures.peer_s)
        setting = f"{count:,} at {in_flight}"
        cpu_ms = statistics.median(figures.cpu_s) * 1000
        submit_ms = statistics.median(figures.submit_s) * 1000
        report(
            [
                Figure(f"{setting}: wall", oyer_s, "s", bound_s, "asyncio.gather", peer_s),
                Figure(f"{setting}: worker CPU a judgement", cpu_ms, "ms"),
                Figure(f"{setting}: submit", submit_ms, "ms"),
            ]
        )
        rows.append(
            (
                str(count),
                str(in_flight),
                f"{bound_s:.2f}",
                f"{oyer_s:.2f}",
                f"{oyer_s / bound_s:.2f}",
                f"{peer_s:.2f}",
                f"{peer_s / oyer_s:.2f}",
                f"{count / oyer_s:.0f}",
                f"{statistics.median(figures.submit_s) * 1000:.0f}",
                f"{statistics.median(figures.cpu_s) * 1000:.2f}",
            )
        )
    print_table(f"L = {options.latency_s} s, medians of {options.rounds} rounds", headings, rows)


if __name__ == "__main__":
    main()
