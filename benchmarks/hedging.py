"""Measures what hedging gains when the judge has a long tail.

    python benchmarks/hedging.py                       # 2,048 rollouts at 64 in flight
    python benchmarks/hedging.py --rollouts 8192 --after p90 --after p75

- The judge's latency is log-normal, with 0.25 s at the median and 2.5 s at the 99th percentile: a quarter
  of that of real judges.
- The bound is a schedule without a tail: the mean of the distribution times the rollouts, divided by
  the calls in flight. The latencies that a round draws vary by about 2 % around it at 2,048 rollouts.
- The judge server shares the machine. Compare the ratios within one run.
"""

import argparse
import json
import math
import statistics
import tempfile
import time
from pathlib import Path

from common import REPLY, Figure, print_table, report, rollouts_of

from oyer.demo.judge_server import judge_process
from oyer.manager import RewardManager

MEDIAN_S, P99_S = 0.25, 2.5
SIGMA = math.log(P99_S / MEDIAN_S) / statistics.NormalDist().inv_cdf(0.99)
MEAN_S = MEDIAN_S * math.exp(SIGMA**2 / 2)
WARM_CALLS = 256
"""Calls before the measured ones, from which the quantile is estimated."""


def measured(manager: RewardManager, endpoint: str, count: int, tag: str) -> tuple[float, float]:
    """Score a batch; returns its wall in seconds, and the extra requests as a part of the calls."""
    asked = manager.config.judges[0].model_copy(update={"endpoint": endpoint})
    under = manager.under(manager.config.model_copy(update={"judges": (asked,)}))
    rollouts = rollouts_of(count, f"{endpoint} {tag}")
    begun_s = time.monotonic()
    batch = under.submit(rollouts, run="bench").result(timeout_s=1200)
    took_s = time.monotonic() - begun_s
    if not batch.mask.all():
        raise SystemExit(f"not every rollout was judged: {set(batch.statuses)}")
    return took_s, batch.usage.calls / count - 1


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rollouts", type=int, default=2048)
    parser.add_argument("--in-flight", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--at-most", type=float, default=0.05)
    parser.add_argument("--after", action="append", help="quantile or seconds; p95 by default")
    options = parser.parse_args()
    count, in_flight = options.rollouts, options.in_flight
    bound_s = MEAN_S * count / in_flight
    hedges = {"off": None} | {
        after: {"after": after, "at_most": options.at_most} for after in options.after or ["p95"]
    }
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in hedges}
    with tempfile.TemporaryDirectory() as folder:
        plan = Path(folder) / "plan.json"
        latency = {"lognormal": [MEDIAN_S, SIGMA]}
        plan.write_text(json.dumps({"default": {"latency_s": latency, "text": REPLY}}))
        with judge_process("--plan", str(plan), "--body-limit-bytes", "0") as url:
            endpoint = {"base_url": url, "max_in_flight": in_flight}
            config = {
                "endpoints": {name: {**endpoint, "hedge": one} for name, one in hedges.items()},
                "judges": [{"name": "q", "endpoint": "off", "model": "bench"}],
                "store": {"url": f"sqlite:///{folder}/hedging.db"},
            }
            with RewardManager.local(config) as manager:
                for name in hedges:
                    measured(manager, name, WARM_CALLS, "warm")
                for turn in range(options.rounds):
                    for name, runs in found.items():
                        runs.append(measured(manager, name, count, str(turn)))
    walls_s = {name: statistics.median(wall for wall, _ in runs) for name, runs in found.items()}
    extra = {name: max(part for _, part in runs) * 100 for name, runs in found.items()}
    what = f"{count} at {in_flight}"
    report(
        figure
        for name in list(hedges)[1:]
        for figure in (
            Figure(f"{what}, hedged after {name}", walls_s[name], "s", bound=bound_s,
                   peer="not hedged", peer_value=walls_s["off"]),
            Figure(f"{what}, hedged after {name}: extra requests", extra[name], "%",
                   bound=options.at_most * 100),
        )
    )  # fmt: skip
    print_table(
        f"{what}, median of {options.rounds} rounds, bound {bound_s:.2f} s",
        ("hedge after", "wall, s", "× bound", "s beyond bound", "extra requests, %"),
        [
            (name, f"{wall_s:.2f}", f"{wall_s / bound_s:.3f}", f"{wall_s - bound_s:.2f}",
             f"{extra[name]:.2f}")
            for name, wall_s in walls_s.items()
        ],
    )  # fmt: skip


if __name__ == "__main__":
    main()
