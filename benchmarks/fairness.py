"""Measures how runs share workers and endpoints.

    python benchmarks/fairness.py              # all scenarios
    python benchmarks/fairness.py --scale 0.25 # with a quarter of each backlog

- `beside a backlog`: a run of 64 rollouts while another has 4,096 under way at the same endpoint.
- `beside a slow endpoint`: the same while another run has 8,192 at an endpoint of 15 s a call.
- `three equal runs`: their finishing times, for 1,024 rollouts each.
- `training beside background`: 1,024 training rollouts while 4,096 of priority `background` wait.
- The judge servers share the machine. Compare the ratios within one run.
"""

import argparse
import contextlib
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from common import Figure, judge, print_table, report, rollouts_of

from oyer.manager import RewardFuture, RewardManager
from oyer.protocol.batch import Priority

IN_FLIGHT, CALL_S, FAST_S, SLOW_S = 128, 0.5, 0.2, 15.0

BEFORE_S = 2.0
"""Time from a backlog's submission to the measured batch's, in seconds."""


@contextlib.contextmanager
def managers(folder: str) -> Iterator[dict[str, RewardManager]]:
    """Start one backend with three endpoints; yields a manager for each."""
    with judge(CALL_S) as usual, judge(FAST_S) as fast, judge(SLOW_S) as slow:
        urls = {"usual": usual, "fast": fast, "slow": slow}
        config = {
            "endpoints": {
                name: {"base_url": url, "max_in_flight": IN_FLIGHT} for name, url in urls.items()
            },
            "judges": [{"name": "q", "endpoint": "usual", "model": "bench"}],
            "store": {"url": f"sqlite:///{folder}/fairness.db"},
        }
        with RewardManager.local(config) as manager:
            found = {"usual": manager}
            for name in ("fast", "slow"):
                asked = manager.config.judges[0].model_copy(update={"endpoint": name})
                found[name] = manager.under(manager.config.model_copy(update={"judges": (asked,)}))
            yield found


class Timed:
    """A batch whose time from `submit` to its result is taken on a thread."""

    def __init__(self, manager: RewardManager, count: int, run: str) -> None:
        rollouts = rollouts_of(count, f"{run} {time.monotonic()}")
        self._begun_s = time.monotonic()
        self._future = manager.submit(rollouts, run=run)
        pool = ThreadPoolExecutor(1)
        self._waited = pool.submit(self._wait)
        pool.shutdown(wait=False)

    def _wait(self) -> float:
        batch = self._future.result(timeout_s=1200)
        took_s = time.monotonic() - self._begun_s
        if not batch.mask.all():
            raise SystemExit(f"not every rollout was judged: {set(batch.statuses)}")
        return took_s

    def took_s(self) -> float:
        """Wait for the batch; returns its time."""
        return self._waited.result()


def backlog_of(
    manager: RewardManager, count: int, run: str, priority: Priority = "training"
) -> RewardFuture:
    """Submit a backlog that is to be cancelled, and wait until its calls are under way."""
    rollouts = rollouts_of(count, f"{run} {time.monotonic()}")
    future = manager.submit(rollouts, run=run, priority=priority)
    time.sleep(BEFORE_S)
    return future


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--scale", type=float, default=1.0, help="part of each backlog")
    backlog, large, equal = (int(parser.parse_args().scale * n) for n in (4096, 8192, 1024))
    rows = []
    with tempfile.TemporaryDirectory() as folder, managers(folder) as by_endpoint:
        usual, fast, slow = (by_endpoint[name] for name in ("usual", "fast", "slow"))
        for manager in (usual, fast):
            Timed(manager, IN_FLIGHT, "warm").took_s()
        small_s = Timed(usual, 64, "B").took_s()
        alone_s = Timed(usual, backlog, "A").took_s()
        many = Timed(usual, backlog, "A")
        time.sleep(BEFORE_S)
        beside_s = Timed(usual, 64, "B").took_s()
        rows += [
            ("64 of B alone", f"{small_s:.2f}", ""),
            ("64 of B beside a backlog", f"{beside_s:.2f}", f"{beside_s / small_s:.2f}"),
            (f"{backlog} of A alone", f"{alone_s:.2f}", ""),
            (f"{backlog} of A beside B", f"{many.took_s():.2f}", f"{many.took_s() / alone_s:.3f}"),
        ]
        small_s = Timed(fast, 64, "B").took_s()
        stuck = backlog_of(slow, large, "A")
        beside_s = Timed(fast, 64, "B").took_s()
        stuck.cancel()
        rows += [
            ("64 of B, fast endpoint, alone", f"{small_s:.2f}", ""),
            ("64 of B beside a slow endpoint", f"{beside_s:.2f}", f"{beside_s / small_s:.2f}"),
        ]
        runs_s = [one.took_s() for one in [Timed(usual, equal, name) for name in "XYZ"]]
        rows.append(
            (f"three runs of {equal}", f"{max(runs_s):.2f}", f"{max(runs_s) / min(runs_s):.3f}")
        )
        alone_s = Timed(usual, equal, "A").took_s()
        quiet = backlog_of(usual, backlog, "evaluation", "background")
        beside_s = Timed(usual, equal, "A").took_s()
        quiet.cancel()
        rows += [
            (f"{equal} of training alone", f"{alone_s:.2f}", ""),
            (f"{equal} beside background", f"{beside_s:.2f}", f"{beside_s / alone_s:.3f}"),
        ]
    report(
        Figure(name, float(took_s), "s", peer="alone", peer_value=float(took_s) / float(ratio))
        for name, took_s, ratio in rows
        if ratio
    )
    print_table(
        "Seconds, and ratio to alone (three runs: last to first)", ("scenario", "s", "ratio"), rows
    )


if __name__ == "__main__":
    main()
