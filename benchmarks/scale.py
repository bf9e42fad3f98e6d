"""Measures how time, CPU, memory and the record grow with the number of rollouts.

    python benchmarks/scale.py                    # 512 and 2,048 rollouts, to try it
    python benchmarks/scale.py --full             # 1k to 256k at 128, 512 and 2,048 in flight; hours
    python benchmarks/scale.py --rollouts 1024 65536 --in-flight 512

- Each setting has a backend and a record of its own. CPU is that of all processes of a kind from
  `submit` to half a second after the result; memory is the most that one process of a kind held beyond
  what it held before; Redis' memory and the record are per rollout.
- `growth` is the figure of the most rollouts over that of the fewest, at the same calls in flight; a
  figure per rollout is flat if that is at most 1.10.
- The bound of the wall is that of the waves: `ceil(N / C) · L`.
- Three more loads, each at 128 in flight: groups of 512, responses of 1 MB, and 64 trainers at once,
  whose bound is that of all their rollouts as one batch.
"""

import argparse
import math
import sqlite3
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace

import redis
from common import Figure, backend, judge, print_table, report, rollouts_of
from judging import cpu_s_of

from oyer.manager import RewardManager, Rollout
from tests.support.process_memory import MIB, Sampler, forget_peaks, peak_bytes, processes_of

KINDS = ("trainer", "judge", "length", "combine", "redis")
LATENCY_S = 0.5
FLAT = 1.10
"""Most growth of a figure per rollout from the fewest to the most rollouts."""

FULL = [1024, 4096, 16_384, 65_536, 262_144]
FULL_IN_FLIGHT = [128, 512, 2048]

Figures = dict[str, float]
Load = Callable[[RewardManager], None]


def measure(load: Load, count: int, in_flight: int) -> Figures:
    """Run a load of `count` rollouts on a backend of its own."""
    with (
        tempfile.TemporaryDirectory(prefix="oyer-scale-") as folder,
        judge(LATENCY_S) as base_url,
        backend(base_url, in_flight, folder) as manager,
        redis.Redis.from_url(str(manager.config.broker.url)) as client,
    ):
        submit_all(manager, rollouts_of(min(in_flight, 512), "warm"))
        pids = processes_of(manager)
        forget_peaks(lambda: processes_of(manager))
        cpu_s, held = by_kind_cpu_s(pids), {name: peak_bytes(pid) for name, pid in pids.items()}
        stored, recorded = int(client.info()["used_memory"]), record_bytes(folder)
        with Sampler(client) as sampler:
            began = time.perf_counter()
            load(manager)
            wall_s = time.perf_counter() - began
        time.sleep(0.5)  # what workers do after the last result belongs to it
        cpu_after_s = by_kind_cpu_s(pids)
        figures = {"wall s": wall_s}
        for kind in KINDS:
            figures[f"{kind} CPU ms"] = (cpu_after_s[kind] - cpu_s[kind]) * 1000 / count
        for kind in KINDS:
            grown = [peak_bytes(pids[name]) - held[name] for name in pids if kind_of(name) == kind]
            figures[f"{kind} MiB"] = max(grown, default=0) / MIB
        figures["Redis B"] = max(0, sampler.most_bytes - stored) / count
        figures["record B"] = (record_bytes(folder) - recorded) / count
        return figures


def kind_of(name: str) -> str:
    """Return the kind of a process that `processes_of` names, e.g. `judge` of `judge-2`."""
    return name.partition("-")[0]


def by_kind_cpu_s(pids: dict[str, int]) -> dict[str, float]:
    """Return the CPU time so far of all processes of each kind."""
    by_kind: dict[str, list[int]] = defaultdict(list)
    for name, pid in pids.items():
        by_kind[kind_of(name)].append(pid)
    return {kind: cpu_s_of(by_kind[kind]) for kind in KINDS}


def record_bytes(folder: str) -> int:
    """Return the size of the record's pages in use, those not yet moved into its file included."""
    with closing(sqlite3.connect(f"{folder}/bench.db")) as connection:
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        (page_bytes,) = connection.execute("PRAGMA page_size").fetchone()
    return int(pages) * int(page_bytes)


def submit_all(manager: RewardManager, rollouts: Sequence[Rollout], run: str = "scale") -> None:
    """Submit rollouts as one batch, and wait for all rewards."""
    batch = manager.submit(rollouts, run=run).result(timeout_s=24 * 3600)
    if not batch.mask.all():
        raise SystemExit(f"not every rollout was judged: {set(batch.statuses)}")


def one_batch(count: int) -> Load:
    """Return the load of one batch, made before the clock runs."""
    rollouts = rollouts_of(count, f"one of {count}")
    return lambda manager: submit_all(manager, rollouts)


def large_groups(count: int) -> Load:
    """Return a load whose groups have 512 rollouts."""
    rollouts = [
        replace(rollout, group_id=f"g{i // 512}")
        for i, rollout in enumerate(rollouts_of(count, "large groups"))
    ]
    return lambda manager: submit_all(manager, rollouts)


def large_responses(count: int) -> Load:
    """Return a load whose responses have 1 MB."""
    rollouts = [
        replace(rollout, response=f"{i} " + f"{rollout.response} " * 245)
        for i, rollout in enumerate(rollouts_of(count, "large responses"))
    ]
    return lambda manager: submit_all(manager, rollouts)


def trainers(count: int, number: int = 64) -> Load:
    """Return a load that many trainers, each with connections and a run of its own, share."""
    parts = [rollouts_of(count // number, f"trainer {i}") for i in range(number)]

    def load(manager: RewardManager) -> None:
        managers = [RewardManager(manager.config) for _ in parts]
        with ThreadPoolExecutor(number) as pool:
            runs = [f"trainer-{i}" for i in range(number)]
            list(pool.map(submit_all, managers, parts, runs))

    return load


def series(in_flight: int, counts: list[int]) -> tuple[list[tuple[str, ...]], list[Figure]]:
    """Measure all counts at one number of calls in flight; returns rows and figures."""
    found = [measure(one_batch(count), count, in_flight) for count in counts]
    rows, figures = [], []
    for name in found[0]:
        first, last = found[0][name], found[-1][name]
        growth = last / first if first > 0 else math.nan
        if name == "wall s":
            ratios = [
                one[name] / (math.ceil(count / in_flight) * LATENCY_S)
                for one, count in zip(found, counts, strict=True)
            ]
            rows.append(
                (str(in_flight), "wall, x bound", *(f"{ratio:.2f}" for ratio in ratios), "")
            )
            bound_s = math.ceil(counts[-1] / in_flight) * LATENCY_S
            figures.append(Figure(f"{counts[-1]:,} at {in_flight}: wall", last, "s", bound=bound_s))
            continue
        per_rollout = not name.endswith("MiB")
        # CPU is counted in ticks of 10 ms, so that the smallest load may have none.
        flat = "" if math.isnan(growth) else f"{growth:.2f}"
        flat += " NOT FLAT" if per_rollout and growth > FLAT else ""
        rows.append((str(in_flight), name, *(f"{one[name]:.3g}" for one in found), flat))
        if per_rollout:
            # The peer is the same program with few rollouts.
            peer = f"{counts[0]:,} rollouts"
            label = f"{counts[-1]:,} at {in_flight}: {name} a rollout"
            unit = name.split()[-1]
            figures.append(Figure(label, last, unit, peer=peer, peer_value=first))
    return rows, figures


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rollouts", type=int, nargs="+", default=[512, 2048])
    parser.add_argument("--in-flight", type=int, nargs="+", default=[128])
    parser.add_argument("--full", action="store_true", help="the sizes of the docs")
    options = parser.parse_args()
    counts = sorted(FULL if options.full else options.rollouts)
    rows: list[tuple[str, ...]] = []
    for in_flight in FULL_IN_FLIGHT if options.full else options.in_flight:
        more_rows, figures = series(in_flight, counts)
        rows += more_rows
        report(figures)
    headings = ("C", "per rollout", *(f"{count:,}" for count in counts), "growth")
    print_table(f"L = {LATENCY_S} s; CPU, Redis and record per rollout", headings, rows)
    small = 1 if options.full else 8
    loads = {
        "groups of 512": (large_groups, 4096 // small),
        "responses of 1 MB": (large_responses, 256 // small),
        "64 trainers at once": (trainers, 4096 // small),
    }
    rows = []
    for name, (load, count) in loads.items():
        found = measure(load(count), count, 128)
        bound_s = math.ceil(count / 128) * LATENCY_S
        report([Figure(f"{name}, {count:,} rollouts: wall", found["wall s"], "s", bound=bound_s)])
        rows.append((name, str(count), f"{bound_s:.1f}", *(f"{found[key]:.3g}" for key in found)))
    print_table("128 in flight", ("load", "N", "bound s", *found), rows)


if __name__ == "__main__":
    main()
