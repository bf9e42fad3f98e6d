"""Measures memory and time while many rollouts are submitted at once.

    python benchmarks/overload.py --rollouts 100000              # as one batch
    python benchmarks/overload.py --rollouts 100000 --batches 100 --response-bytes 4096

- The judge server, a process of its own, answers at once: what is measured is Oyer.
- A process's figure is the most memory that it held (VmHWM), its start included.
- Redis' figures are `used_memory` before, at most, right after, and when what has been kept for
  a while (`--after-s`) is gone.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import redis

sys.path.insert(0, str(Path(__file__).parents[1]))

from oyer.demo.judge_server import judge_process
from oyer.manager import RewardManager, Rollout
from tests.support.process_memory import MIB, Sampler, immortal_keys, peak_bytes, processes_of

WORDS = [
    "the",
    "sum",
    "of",
    "two",
    "numbers",
    "is",
    "checked",
    "step",
    "by",
    "step",
    "and",
    "then",
    "once",
    "more",
    "from",
    "the",
    "end;",
]


def rollout(i: int, response_bytes: int) -> Rollout:
    """Make a rollout that differs from all others; its words compress about as prose does."""
    words = [WORDS[(i * 31 + k * k * 7 + k * i) % len(WORDS)] for k in range(response_bytes // 5)]
    return Rollout(
        prompt=f"question {i // 8}",
        response=f"{i}: {' '.join(words)}"[: max(40, response_bytes)],
        group_id=f"g{i // 8}",
        base_score=1.0,
        response_tokens=100 + i % 200,
    )


def main() -> None:
    """Print what one load took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rollouts", type=int, default=100_000)
    parser.add_argument("--batches", type=int, default=1)
    parser.add_argument("--response-bytes", type=int, default=60)
    parser.add_argument("--in-flight", type=int, default=512)
    parser.add_argument("--after-s", type=float, default=65.0)
    options = parser.parse_args()
    server = judge_process("--text", "Final score: 8", "--body-limit-bytes", "0")
    with tempfile.TemporaryDirectory() as folder, server as base_url:
        config = {
            "endpoints": {"e": {"base_url": base_url, "max_in_flight": options.in_flight}},
            "judges": [{"name": "q", "endpoint": "e", "model": "m"}],
            "length": {"method": "median_band"},
            "store": {"url": f"sqlite:///{folder}/load.db"},
        }
        with RewardManager.local(config) as manager:
            measure(manager, options)


def measure(manager: RewardManager, options: argparse.Namespace) -> None:
    """Submit, wait, and print."""
    client = redis.Redis.from_url(str(manager.config.broker.url))
    manager.submit([rollout(-i, 60) for i in range(1, 257)]).result(timeout_s=120)
    per_batch = options.rollouts // options.batches
    before = int(client.info()["used_memory"])
    at_start = {name: peak_bytes(pid) for name, pid in processes_of(manager).items()}
    with Sampler(client) as sampler:
        rollouts = [rollout(i, options.response_bytes) for i in range(options.rollouts)]
        own = peak_bytes(processes_of(manager)["trainer"])
        began = time.perf_counter()
        futures = [
            manager.submit(rollouts[k : k + per_batch], run="load")
            for k in range(0, options.rollouts, per_batch)
        ]
        submitted_s = time.perf_counter() - began
        scored = 0
        for future in futures:
            batch = future.result(timeout_s=3000)
            scored += batch.statuses.count("scored")
        ended_s = time.perf_counter() - began
    after = int(client.info()["used_memory"])
    print(
        f"{options.rollouts} rollouts of {options.response_bytes} bytes, {options.batches} batches"
    )
    print(f"scored {scored}; submitted in {submitted_s:.2f} s, ended in {ended_s:.1f} s")
    for name, pid in processes_of(manager).items():
        extra = f", {own / MIB:.0f} with the rollouts made" if name == "trainer" else ""
        print(f"  {name}: {at_start[name] / MIB:.0f} -> {peak_bytes(pid) / MIB:.0f} MiB{extra}")
    time.sleep(options.after_s)
    last = int(client.info()["used_memory"])
    figures = [f"{value / MIB:.1f}" for value in (before, sampler.most_bytes, after, last)]
    print(f"  redis used_memory before, most, after, later: {', '.join(figures)} MiB")
    print(f"  keys {client.dbsize()}, without expiry: {immortal_keys(client)}")
    kinds: dict[str, int] = {}
    for key in client.scan_iter(count=1000):
        kind = key.decode().rpartition(":")[0] if key.startswith(b"oyer:") else key.decode()[:20]
        kinds[kind[:24]] = kinds.get(kind[:24], 0) + 1
    print(f"  kinds: {kinds}")


if __name__ == "__main__":
    main()
