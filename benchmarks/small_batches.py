"""Measures what rollouts cost in small batches, against one large batch of the same rollouts.

    python benchmarks/small_batches.py                   # the table of the docs
    python benchmarks/small_batches.py --rounds 3 --rollouts 512

- CPU per rollout of all processes together: this one, all workers, Redis; from the first `submit` to
  half a second after the last result. The judge server is not counted.
- All batches of a round are submitted one after the other and are under way together. `stream` hands
  the rollouts over one by one from eight processes, evenly over half a second; the client's share is
  then that of all eight.
- The peer is one large batch. The bound is that of the waves: `ceil(N / C) · L`, plus the half second
  of `stream`.
- Each round runs all ways in another order; the table has medians.
"""

import argparse
import asyncio
import gc
import math
import multiprocessing
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from common import Figure, backend, judge, print_table, report, rollouts_of
from judging import cpu_s_of

from oyer.manager import RewardManager, Rollout
from tests.support.process_memory import processes_of

KINDS = ("trainer", "judge", "length", "combine", "redis")
"""Kinds of processes, as `processes_of` names them."""

LATENCY_S, IN_FLIGHT = 0.25, 128
PROCESSES, OVER_S = 8, 0.5

Figures = dict[str, float]


def in_batches(size: int, manager: RewardManager, rollouts: Sequence[Rollout]) -> float:
    """Submit all in batches of `size`; returns the CPU seconds of other clients: none."""
    parts = [rollouts[i : i + size] for i in range(0, len(rollouts), size)]
    futures = [manager.submit(part, run="bench") for part in parts]
    if not all(future.result(timeout_s=600).mask.all() for future in futures):
        raise SystemExit("not every rollout was judged")
    return 0.0


class Streams:
    """Processes that submit their rollouts one by one."""

    def __init__(self, manager: RewardManager, rollouts: Sequence[Rollout]) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipes = []
        self._processes = []
        for k in range(PROCESSES):
            here, there = context.Pipe()
            part = rollouts[k::PROCESSES]
            process = context.Process(target=_stream, args=(manager, part, there), daemon=True)
            process.start()
            self._pipes.append(here)
            self._processes.append(process)
        self._receive()

    def run(self, *_: object) -> float:
        """Submit all; returns the CPU seconds of these processes."""
        for pipe in self._pipes:
            pipe.send("go")
        return sum(self._receive())

    def _receive(self) -> list[float]:
        return [pipe.recv() for pipe in self._pipes]

    def close(self) -> None:
        """Wait for the processes to end."""
        for process in self._processes:
            process.join()


def _stream(
    manager: RewardManager,
    rollouts: Sequence[Rollout],
    pipe: "multiprocessing.connection.Connection",
) -> None:
    async def one(i: int, rollout: Rollout) -> bool:
        await asyncio.sleep(OVER_S * i / len(rollouts))
        score = await manager.score(rollout, run="bench", group_size=8)
        return score.trainable

    async def everything() -> list[bool]:
        return await asyncio.gather(*(one(i, rollout) for i, rollout in enumerate(rollouts)))

    pipe.send(0.0)
    pipe.recv()
    cpu_s = time.process_time()
    if not all(asyncio.run(everything())):
        raise SystemExit("not every rollout was judged")
    pipe.send(time.process_time() - cpu_s)


def measured(hand_over: Callable[[], float], pids: dict[str, int]) -> Figures:
    """Run one way; returns CPU seconds by kind of process, and the wall in seconds."""
    gc.collect()
    of_kind = {kind: [pid for name, pid in pids.items() if name.startswith(kind)] for kind in KINDS}
    before = {kind: cpu_s_of(found) for kind, found in of_kind.items()}
    began = time.perf_counter()
    clients_s = hand_over()
    wall_s = time.perf_counter() - began
    time.sleep(0.5)
    figures = {kind: cpu_s_of(found) - before[kind] for kind, found in of_kind.items()}
    figures["trainer"] += clients_s
    return {**figures, "all": sum(figures.values()), "wall": wall_s}


def measure(count: int, rounds: int, ways: Sequence[str]) -> dict[str, list[Figures]]:
    """Run all ways in each round; returns the figures by way."""
    figures: dict[str, list[Figures]] = {way: [] for way in ways}
    with (
        tempfile.TemporaryDirectory() as folder,
        judge(LATENCY_S) as base_url,
        backend(base_url, IN_FLIGHT, folder) as manager,
    ):
        pids = processes_of(manager)
        in_batches(8, manager, rollouts_of(128, "warm"))
        in_batches(count, manager, rollouts_of(count, "warm large"))
        for number in range(rounds):
            for way in random.Random(number).sample(ways, len(ways)):
                rollouts = rollouts_of(count, f"{way} {number}")
                if way == "stream":
                    streams = Streams(manager, rollouts)
                    figures[way].append(measured(streams.run, pids))
                    streams.close()
                else:
                    size = int(way)
                    figures[way].append(
                        measured(partial(in_batches, min(size, count), manager, rollouts), pids)
                    )
    return figures


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rollouts", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--ways", nargs="+", default=["8", "32", "1024", "stream"])
    options = parser.parse_args()
    count = options.rollouts
    figures = measure(count, options.rounds, options.ways)
    bound_s = math.ceil(count / IN_FLIGHT) * LATENCY_S
    # `stream` alone has no peer.
    largest = max(options.ways, key=lambda way: int(way) if way.isdigit() else 0)
    peer = statistics.median(one["all"] for one in figures[largest])
    rows = []
    for way, rounds in figures.items():
        medians = {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}
        wall_bound_s = bound_s + (OVER_S if way == "stream" else 0.0)
        rows.append(
            (
                way,
                *(f"{medians[kind] / count * 1000:.2f}" for kind in (*KINDS, "all")),
                f"{medians['all'] / peer:.2f}",
                f"{medians['wall']:.2f}",
                f"{medians['wall'] / wall_bound_s:.2f}",
            )
        )
    report(
        Figure(
            f"batches of {way}: CPU a rollout" if way.isdigit() else f"{way}: CPU a rollout",
            statistics.median(one["all"] for one in rounds) / count * 1000,
            "ms",
            peer=None if way == largest else f"batches of {largest}",
            peer_value=None if way == largest else peer / count * 1000,
        )
        for way, rounds in figures.items()
    )
    print_table(
        f"CPU ms per rollout, {count} rollouts, medians of {options.rounds} rounds,"
        f" load {os.getloadavg()[0]:.1f}",
        ("batch of", *KINDS, "all", "÷ one large", "wall s", "÷ bound"),
        rows,
    )


if __name__ == "__main__":
    main()
