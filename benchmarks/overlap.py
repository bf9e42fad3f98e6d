"""Measures how long a trainer waits for rewards in a step whose generation and log-probs can hide it.

    python benchmarks/overlap.py                          # the table of docs/sizing.md
    python benchmarks/overlap.py --rounds 1 --log-probs-s 2

A step generates N rollouts, whose ends are spread over `--generation-s`, then computes log-probs
for `--log-probs-s`; both keep the GPU busy and the CPU idle, so they are sleeps here. The judge
server, a process of its own on the same machine, answers every call after `--latency-s`. Waiting is
the time that the step takes beyond generation and log-probs.

- bound: every call starts once its rollout exists and one of C slots is free; no wait can be shorter.
- Oyer, streaming: `score` as each rollout ends, in one process, and in eight that each get every
  eighth rollout at random, so that no group is whole in any; the rewards after log-probs.
- Oyer, batch: `submit` after generation, `result` after log-probs.
- verl's `rate_limited`: inside of generation, one call awaited for each rollout; log-probs begin
  when generation returns, so they hide nothing.
- gather: `asyncio.gather` over AsyncOpenAI after generation and log-probs, as TRL calls rewards.

Length terms compare groups of 8 in all of Oyer's figures. Rounds alternate; the table has medians.
"""

import argparse
import asyncio
import heapq
import multiprocessing
import random
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import openai
from common import (
    Figure,
    backend,
    call,
    gather,
    judge,
    print_table,
    report,
    rollouts_of,
)
from rate_limited import rate_limited

from oyer.manager import RewardManager, Rollout
from oyer.manager.score import Score

PROCESSES = 8


@dataclass(frozen=True)
class Step:
    """A training step, in seconds."""

    ends_s: Sequence[float]
    """When each rollout ends, after the step began."""
    log_probs_s: float
    latency_s: float
    in_flight: int

    @property
    def generation_s(self) -> float:
        """Length of the generation."""
        return max(self.ends_s)

    @property
    def computed_s(self) -> float:
        """When the step has computed all that it can without rewards."""
        return self.generation_s + self.log_probs_s

    def bound_s(self) -> float:
        """Waiting that nothing can hide: calls begin at once, `in_flight` at a time."""
        free_s = [0.0] * self.in_flight
        for end_s in sorted(self.ends_s):
            heapq.heapreplace(free_s, max(free_s[0], end_s) + self.latency_s)
        return max(0.0, max(free_s) - self.computed_s)


def step_of(options: argparse.Namespace) -> Step:
    """Spread the ends of generation: few short ones, most in the middle, a tail; the same each time."""
    rng = random.Random(17)
    ends = [rng.betavariate(2, 2) for _ in range(options.rollouts)]
    scale = options.generation_s / max(ends)
    return Step(
        [end * scale for end in ends], options.log_probs_s, options.latency_s, options.in_flight
    )


def check(scores: Sequence[Score]) -> None:
    """Nothing is measured that was not scored."""
    if any(score.status != "scored" or not score.trainable for score in scores):
        raise SystemExit(f"not every rollout was judged: { ({s.status for s in scores}) }")


async def at(moment: float) -> None:
    """Wait until a moment of `time.monotonic`, which all processes of a machine share."""
    await asyncio.sleep(max(0.0, moment - time.monotonic()))


async def stream(
    manager: RewardManager, rollouts: Sequence[Rollout], ends_s: Sequence[float], began: float
) -> float:
    """Hand each rollout over when it ends; returns when the last reward is there."""

    async def one(rollout: Rollout, end_s: float) -> Score:
        await at(began + end_s)
        return await manager.score(rollout, run="bench", group_size=8)

    scores = await asyncio.gather(*map(one, rollouts, ends_s))
    done = time.monotonic()
    check(scores)
    return done


def streaming(manager: RewardManager, rollouts: list[Rollout], step: Step) -> float:
    """Oyer in one process."""
    began = time.monotonic() + 0.1
    return asyncio.run(stream(manager, rollouts, step.ends_s, began)) - began


def streaming_in_processes(manager: RewardManager, rollouts: list[Rollout], step: Step) -> float:
    """Oyer in eight processes."""
    order = random.Random(3).sample(range(len(rollouts)), len(rollouts))
    context = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    for k in range(PROCESSES):
        share = order[k::PROCESSES]
        ours, theirs = context.Pipe()
        task = [rollouts[i] for i in share], [step.ends_s[i] for i in share]
        config = manager.config.model_dump(mode="json")
        process = context.Process(target=_stream_share, args=(theirs, config, *task))
        process.start()
        pipes.append(ours)
        processes.append(process)
    for pipe in pipes:
        pipe.recv()
    began = time.monotonic() + 0.1
    for pipe in pipes:
        pipe.send(began)
    done: float = max(pipe.recv() for pipe in pipes)
    for process in processes:
        process.join()
    return done - began


def _stream_share(
    pipe: Connection, config: dict[str, Any], rollouts: list[Rollout], ends_s: list[float]
) -> None:
    manager = RewardManager(config)
    pipe.send("ready")
    pipe.send(asyncio.run(stream(manager, rollouts, ends_s, pipe.recv())))


def batch(manager: RewardManager, rollouts: list[Rollout], step: Step) -> float:
    """Oyer after generation."""
    time.sleep(step.generation_s)
    began = time.monotonic() - step.generation_s
    future = manager.submit(rollouts, run="bench")
    time.sleep(max(0.0, began + step.computed_s - time.monotonic()))
    result = future.result(timeout_s=600)
    done = time.monotonic()
    if not result.mask.all():
        raise SystemExit(f"not every rollout was judged: {set(result.statuses)}")
    return done - began


async def verl(base_url: str, rollouts: list[Rollout], step: Step) -> tuple[str, float]:
    """verl's manager inside of generation; log-probs after it. Returns its name too."""
    async with openai.AsyncOpenAI(base_url=base_url, api_key="none", max_retries=0) as client:

        async def compute_score(*, extra_info: dict[str, Any], **_: Any) -> float:
            reply = await call(client, rollouts[extra_info["i"]])
            return float((reply or "").rpartition(":")[2])

        responses = [str(rollout.response) for rollout in rollouts]
        name, score = rate_limited(compute_score, responses, max_concurrent=step.in_flight)
        began = time.monotonic() + 0.1

        async def one(i: int, end_s: float) -> float:
            await at(began + end_s)
            return await score(i)

        scores = await asyncio.gather(*map(one, range(len(rollouts)), step.ends_s))
        done = time.monotonic()
    if set(scores) != {8.0}:
        # There, a failed call gives the reward 0 and no error.
        print(f"{name}: {scores.count(0.0)} of {len(scores)} rewards are 0 for calls that failed")
    return name, done - began + step.log_probs_s


def gathered(base_url: str, rollouts: list[Rollout], step: Step) -> float:
    """`asyncio.gather` after generation and log-probs, which need no clock here."""
    began = time.monotonic()
    asyncio.run(gather(base_url, rollouts, step.in_flight))
    return step.computed_s + time.monotonic() - began


def measure(step: Step, rounds: int) -> dict[str, list[float]]:
    """Alternate all ways; returns the seconds waited, by way."""
    waited: dict[str, list[float]] = defaultdict(list)
    count = len(step.ends_s)
    with (
        tempfile.TemporaryDirectory() as folder,
        judge(step.latency_s) as base_url,
        backend(base_url, step.in_flight, folder) as manager,
    ):
        manager.submit(rollouts_of(64, "warm"), run="bench").result(timeout_s=600)
        for number in range(rounds):
            for way, run in (
                ("Oyer, streaming", streaming),
                (f"Oyer, streaming in {PROCESSES} processes", streaming_in_processes),
                ("Oyer, batch", batch),
            ):
                step_s = run(manager, rollouts_of(count, f"{way} {number}"), step)
                waited[way].append(step_s - step.computed_s)
            rollouts = rollouts_of(count, f"peers {number}")
            name, step_s = asyncio.run(verl(base_url, rollouts, step))
            waited[name].append(step_s - step.computed_s)
            waited["asyncio.gather"].append(gathered(base_url, rollouts, step) - step.computed_s)
    return waited


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rollouts", type=int, default=1024)
    parser.add_argument("--in-flight", type=int, default=256)
    parser.add_argument("--generation-s", type=float, default=12.0)
    parser.add_argument("--log-probs-s", type=float, default=0.5)
    parser.add_argument("--latency-s", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    step = step_of(options)
    bound_s = step.bound_s()
    rows = []
    for way, waited in measure(step, options.rounds).items():
        # Waiting ends with the last reward, which may be there before the log-probs are.
        waits = [max(0.0, one) for one in waited]
        beyond = sorted((one - bound_s) * 1000 for one in waits)
        rows.append(
            (
                way,
                f"{statistics.median(waits):.2f}",
                f"{bound_s:.2f}",
                f"{statistics.median(beyond):.0f}",
                f"{beyond[0]:.0f} … {beyond[-1]:.0f}",
            )
        )
    report(Figure(f"{row[0]}: waiting", float(row[1]), "s", bound_s) for row in rows)
    print_table(
        f"N = {options.rollouts}, C = {options.in_flight}, generation"
        f" {options.generation_s:g} s, log-probs {options.log_probs_s:g} s, judge"
        f" {options.latency_s:g} s; medians of {options.rounds} rounds",
        ("rewards by", "waiting s", "bound s", "beyond it ms", "least … most ms"),
        rows,
    )


if __name__ == "__main__":
    main()
