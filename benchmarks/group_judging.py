"""Measures group judges: calls made for N rollouts, and the CPU of the judge workers per verdict.

    python benchmarks/judging.py --groups --calls 512     # 512 rollouts in groups of 8

The judge is the demo server's rule judge, which answers lists and pairs.
"""

import tempfile
from collections.abc import Callable, Sequence
from typing import Any

from common import print_table, rollouts_of

from oyer.demo.judge_server import judge_process
from oyer.manager import RewardManager

JUDGES: dict[str, dict[str, Any]] = {
    "pointwise": {},
    "listwise": {"kind": "group"},
    "pairs, circular": {"kind": "group", "mode": "pairs"},
    "pairs, chunks of 4": {"kind": "group", "mode": "pairs", "pairs": {"chunks": 4}},
    "pairs, all": {"kind": "group", "mode": "pairs", "pairs": "all"},
    "pairs, all, both orders": {
        "kind": "group",
        "mode": "pairs",
        "pairs": "all",
        "both_orders": True,
    },
}


def print_groups(
    count: int, pids_of: Callable[[RewardManager], list[int]], cpu_s: Callable[[list[int]], float]
) -> None:
    """Print calls and CPU per verdict of each kind of judge on `count` rollouts in groups of 8."""
    rows: list[Sequence[str]] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        judge_process("--latency-s", "0.05", "--body-limit-bytes", "0") as url,
    ):
        config: dict[str, Any] = {
            "endpoints": {"bench": {"base_url": url, "max_in_flight": 128}},
            "judges": [{"name": "q", "endpoint": "bench", "model": "bench"}],
            "length": [],
            "store": {"url": f"sqlite:///{folder}/bench.db"},
        }
        with RewardManager.local(config) as local:
            pids = pids_of(local)
            raw = local.config.model_dump(mode="json")
            for name, changes in JUDGES.items():
                judge = {"name": "q", "endpoint": "bench", "model": "bench", **changes}
                manager = RewardManager({**raw, "judges": [judge]})
                manager.submit(rollouts_of(64, f"warm {name}")).result(timeout_s=600)
                before_s = cpu_s(pids)
                batch = manager.submit(rollouts_of(count, name)).result(timeout_s=600)
                used_ms = (cpu_s(pids) - before_s) * 1000
                if not batch.mask.all():
                    raise SystemExit(f"{name}: rollouts without a score: {batch.first_errors}")
                rows.append((name, f"{batch.usage.calls:,}", f"{used_ms / count:.2f}"))
    print_table(
        f"{count} rollouts in groups of 8", ("judge", "calls", "CPU per verdict in ms"), rows
    )
