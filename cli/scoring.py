"""Scores rollouts in batches with a progress bar; what `oyer score` and `oyer demo` share."""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from oyer.cli.output import notes
from oyer.manager import InvalidRollout, RewardBatch, RewardFuture, RewardManager, Rollout

_LOOK_S = 0.1
"""Pause between two looks at the progress."""


@dataclass
class Summary:
    """What scoring some rollouts came to."""

    rollouts: int = 0
    seconds: float = 0.0
    statuses: Counter[str] = field(default_factory=Counter)
    calls: int = 0
    tokens: int = 0
    cost_usd: float = 0.0

    def add(self, batch: RewardBatch) -> None:
        """Count a batch in."""
        self.rollouts += len(batch)
        self.statuses.update(batch.statuses)
        self.calls += batch.usage.calls
        self.tokens += batch.usage.tokens
        self.cost_usd += batch.usage.cost_usd


def batches(rollouts: Sequence[Rollout], size: int) -> list[list[Rollout]]:
    """Cut rollouts into batches of about `size`, keeping each group in one batch.

    Raises:
        InvalidRollout: a group's rollouts do not stand together; their order would change.
    """
    cut: list[list[Rollout]] = [[]]
    seen: set[str | int] = set()
    previous: object = object()
    for number, rollout in enumerate(rollouts, start=1):
        group = rollout.group_id
        if group is None or group != previous:
            if group is not None and group in seen:
                raise InvalidRollout(
                    f"rollout {number}: group {group!r} began earlier and was interrupted;"
                    " put the rollouts of a group next to each other"
                )
            if group is not None:
                seen.add(group)
            if len(cut[-1]) >= size:
                cut.append([])
        cut[-1].append(rollout)
        previous = group
    return cut


def score_all(
    manager: RewardManager, parts: Sequence[list[Rollout]], *, run: str, quiet: bool = False
) -> Iterator[tuple[list[Rollout], RewardBatch]]:
    """Submit every batch at once, then yield them in order as they end."""
    futures = [manager.submit(part, run=run, step=i) for i, part in enumerate(parts)]
    columns = [TextColumn("judging"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()]
    with Progress(*columns, console=notes, disable=quiet) as bar:
        total = sum(future.progress()[1] for future in futures)
        task = bar.add_task("judging", total=total or None)
        for part, future in zip(parts, futures, strict=True):
            while not future.done():
                bar.update(task, completed=_judged(futures))
                time.sleep(_LOOK_S)
            yield part, future.result()
        bar.update(task, completed=total)


def _judged(futures: Sequence[RewardFuture]) -> int:
    return sum(future.progress()[0] for future in futures)
