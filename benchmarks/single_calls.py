"""Measures what a thousand single `score` calls cost against one `submit` of the same rollouts.

    python benchmarks/single_calls.py                     # the table of docs/sizing.md
    python benchmarks/single_calls.py --rounds 3 --spread-s 4

- CPU is that of this process, of all workers together, and of Redis, from handing the first rollout
  over to the last reward. Tasks and batches are what this process sent; each batch's `combine`
  comes on top.
- With groups, the length terms compare groups of 8; without, there are none. `at once` is one
  `asyncio.gather`; `over 2 s` is the same with the rollouts in random order, evenly over
  `--spread-s`, so that most groups are incomplete for most of it.
- `timers alone` is the client CPU of an event loop that hands nothing over: as many tasks, of which each
  waits for its turn over `--spread-s` and then for 0.5 s.
- The judge server, a process of its own on the same machine, answers after 0.5 s, 256 at a time.
- Each round goes through all ways in another order, so that a busy machine slows all alike; the table
  has medians.
- Python's full garbage collections go through all that a process has loaded, 0.1 s here, about every
  fourth thousand of single calls; they are had before the clock runs.
"""

import argparse
import asyncio
import gc
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from celery import signals
from common import Figure, backend, judge, print_table, report, rollouts_of
from judging import cpu_s_of

from oyer.manager import RewardManager, Rollout
from oyer.manager.score import Score
from tests.support.process_memory import processes_of

Figures = dict[str, float]


@dataclass
class Sent:
    """What this process hands to the broker."""

    tasks: int = 0
    batches: set[str] = field(default_factory=set)

    def count(self, body: tuple[Any, dict[str, Any], Any], **_: Any) -> None:
        """Count a task in, as Celery's signal tells of it."""
        self.tasks += 1
        self.batches.add(body[1]["batch_id"])


def batch(manager: RewardManager, rollouts: Sequence[Rollout]) -> None:
    """Hand over all in one call."""
    result = manager.submit(rollouts, run="bench").result(timeout_s=600)
    if not result.mask.all():
        raise SystemExit(f"not every rollout was judged: {set(result.statuses)}")


def singly(manager: RewardManager, rollouts: Sequence[Rollout], over_s: float = 0.0) -> None:
    """Hand over one by one on an event loop."""
    group_size = 8 if manager.config.length else None
    # In the order handed over at once, at random otherwise; evenly over the time.
    order = random.Random(5).sample(range(len(rollouts)), len(rollouts)) if over_s else None

    async def one(i: int, rollout: Rollout) -> Score:
        if order is not None:
            await asyncio.sleep(over_s * order[i] / len(rollouts))
        return await manager.score(rollout, run="bench", group_size=group_size)

    async def main() -> list[Score]:
        return await asyncio.gather(*(one(i, rollout) for i, rollout in enumerate(rollouts)))

    scores = asyncio.run(main())
    if any(score.status != "scored" or not score.trainable for score in scores):
        raise SystemExit(f"not every rollout was judged: { ({s.status for s in scores}) }")


def timers_alone(count: int, over_s: float) -> float:
    """Return the CPU of the waits that `singly` adds to the product's own, in ms."""

    async def one(i: int) -> None:
        await asyncio.sleep(over_s * i / count)
        await asyncio.sleep(0.5)

    async def main() -> None:
        await asyncio.gather(*map(one, range(count)))

    began_s = time.process_time()
    asyncio.run(main())
    return (time.process_time() - began_s) * 1000


def measured(hand_over: Callable[[], None], pids: dict[str, int]) -> Figures:
    """Hand over and count."""
    gc.collect()
    sent = Sent()
    workers = [pid for name, pid in pids.items() if name not in ("trainer", "redis")]
    signals.before_task_publish.connect(sent.count, weak=False)
    client_s, workers_s, redis_s = time.process_time(), cpu_s_of(workers), cpu_s_of([pids["redis"]])
    began = time.perf_counter()
    hand_over()
    took_s = time.perf_counter() - began
    client_s = time.process_time() - client_s
    # What the workers do after the last reward belongs to it.
    time.sleep(0.5)
    signals.before_task_publish.disconnect(sent.count)
    return {
        "client CPU ms": client_s * 1000,
        "workers CPU ms": (cpu_s_of(workers) - workers_s) * 1000,
        "Redis CPU ms": (cpu_s_of([pids["redis"]]) - redis_s) * 1000,
        "tasks": sent.tasks,
        "batches": len(sent.batches),
        "took ms": took_s * 1000,
    }


def measure(count: int, spread_s: float, rounds: int) -> dict[str, list[Figures]]:
    """Alternate all ways; returns the figures of each round, by way."""
    figures: dict[str, list[Figures]]
    with (
        tempfile.TemporaryDirectory() as folder,
        judge(0.5) as base_url,
        backend(base_url, 256, folder) as grouped,
    ):
        alone = RewardManager({**grouped.config.model_dump(mode="json"), "length": []})
        pids = processes_of(grouped)
        for manager in (grouped, alone):
            batch(manager, rollouts_of(256, f"warm {manager is alone}"))
            singly(manager, rollouts_of(256, f"warm singly {manager is alone}"))
        ways: list[tuple[str, RewardManager, Callable[..., None]]] = [
            (f"{name}: {way}", manager, hand_over)
            for name, manager in (("groups of 8", grouped), ("no groups", alone))
            for way, hand_over in (
                ("one `submit`", batch),
                ("`score`, at once", singly),
                (f"`score`, over {spread_s:g} s", partial(singly, over_s=spread_s)),
            )
        ]
        figures = {name: [] for name, *_ in ways}
        for number in range(rounds):
            for name, manager, hand_over in random.Random(number).sample(ways, len(ways)):
                rollouts = rollouts_of(count, f"{name} {number}")
                figures[name].append(measured(partial(hand_over, manager, rollouts), pids))
    return figures


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rollouts", type=int, default=1000)
    parser.add_argument("--spread-s", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    figures = measure(options.rollouts, options.spread_s, options.rounds)
    names = list(next(iter(figures.values()))[0])
    rows = []
    for way, rounds in figures.items():
        medians = [statistics.median(one[name] for one in rounds) for name in names]
        rows.append((way, *(f"{median:.0f}" for median in medians)))
    one_submit = {
        way.partition(":")[0]: row
        for way, row in zip(figures, rows, strict=False)
        if "submit" in way
    }
    report(
        Figure(
            f"{way}: {name}",
            float(row[1 + i]),
            name.split()[-1],
            None,
            "one `submit`",
            float(peer[1 + i]),
        )
        for way, row in zip(figures, rows, strict=True)
        for peer in [one_submit[way.partition(":")[0]]]
        for i, name in enumerate(names)
        if name.endswith("CPU ms") and row is not peer
    )
    floor_ms = statistics.median(
        timers_alone(options.rollouts, options.spread_s) for _ in range(options.rounds)
    )
    report([Figure(f"timers alone, over {options.spread_s:g} s: client CPU ms", floor_ms, "ms")])
    rows.append((f"timers alone, over {options.spread_s:g} s", f"{floor_ms:.0f}"))
    title = f"{options.rollouts} rollouts; medians of {options.rounds} rounds"
    print_table(title, ("handed over by", *names), rows)


if __name__ == "__main__":
    main()
