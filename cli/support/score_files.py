"""Scores rollouts in batches with a progress bar, for `oyer score` and `oyer demo`."""

import contextlib
import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
)

from oyer.cli.support.jsonl import RewardLine, reward_lines
from oyer.cli.support.output import counted, notes
from oyer.manager import RewardBatch, RewardFuture, RewardManager, Rollout
from oyer.protocol.errors import BackendUnavailable

_AHEAD = 4
"""Batches in progress at once: keeps the judges busy and limits the memory of Redis."""

_PROGRESS_EVERY_S = 0.1
"""Pause between two updates of the progress bar, in seconds."""


@dataclass
class Summary:
    """Totals of the scored rollouts."""

    rollouts: int = 0
    seconds: float = 0.0
    statuses: Counter[str] = field(default_factory=Counter)
    first_errors: dict[str, str] = field(default_factory=dict)
    """The first error of each failure status."""
    judged: int = 0
    """Rollouts with a judge score, new or reused."""
    calls: int = 0
    tokens: int = 0
    cost_usd: float = 0.0

    def add(self, batch: RewardBatch) -> None:
        """Add a batch."""
        self.rollouts += len(batch)
        self.statuses.update(batch.statuses)
        self.first_errors = {**batch.first_errors, **self.first_errors}
        scores = zip(batch.statuses, batch.judge_scores, strict=True)
        self.judged += sum(status == "scored" and math.isfinite(score) for status, score in scores)
        self.calls += batch.usage.calls
        self.tokens += batch.usage.tokens
        self.cost_usd += batch.usage.cost_usd

    @property
    def failed(self) -> int:
        """Number of rollouts whose judging failed."""
        from oyer.protocol.status import SETTLED

        return sum(count for status, count in self.statuses.items() if status not in SETTLED)

    @property
    def used(self) -> str:
        """Describe the cost, or that all scores were reused."""
        if self.judged and not self.calls and not self.failed:
            return "no calls: every score was on record already (`reuse`)"
        return f"{counted(self.calls, 'call')}, {self.tokens} tokens, ${self.cost_usd:.4f}"

    def print_errors(self) -> None:
        """Print an example error for each failure status."""
        for status, error in sorted(self.first_errors.items()):
            line = f"[bold]{escape(status)}[/] e.g. {escape(error)}"
            notes.print(line, highlight=False, soft_wrap=True)

    def report(self) -> dict[str, Any]:
        """Return the totals as JSON values."""
        more = {"statuses": dict(self.statuses), "seconds": round(self.seconds, 3)}
        return {**vars(self), **more, "failed": self.failed}


class Place(NamedTuple):
    """Where batches are recorded."""

    run: str
    split: str | None = None


def score_all(
    manager: RewardManager,
    rollouts: Sequence[Rollout],
    place: Place,
    *,
    batch_size: int,
    quiet: bool = False,
) -> tuple[list[RewardLine], Summary]:
    """Score rollouts a few batches at a time.

    Returns:
        One line per rollout, in the given order, and the totals.

    Raises:
        OyerError: a batch failed; the batches in progress are cancelled to stop their cost.
    """
    lines: list[RewardLine] = [{} for _ in rollouts]
    summary, started = Summary(), time.monotonic()
    columns = [TextColumn("scoring"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()]
    with Progress(*columns, console=notes, disable=quiet) as bar:
        task = bar.add_task("scoring", total=len(rollouts))

        def show(judged: float) -> None:
            bar.update(task, completed=summary.rollouts + int(judged))

        for rows, batch in _ended(manager, rollouts, batches(rollouts, batch_size), place, show):
            summary.add(batch)
            scored = reward_lines([rollouts[row] for row in rows], batch)
            for row, line in zip(rows, scored, strict=True):
                lines[row] = line
            show(0)
    summary.seconds = time.monotonic() - started
    return lines, summary


def batches(rollouts: Sequence[Rollout], size: int) -> list[list[int]]:
    """Divide rollouts into batches of about `size`, with each group in one batch.

    Returns:
        The row numbers of each batch; the rows of a group need not be adjacent.
    """
    groups: dict[object, list[int]] = {}
    for row, rollout in enumerate(rollouts):
        # The tuple keeps the row number apart from a group id of the same value.
        key = (row,) if rollout.group_id is None else str(rollout.group_id)
        groups.setdefault(key, []).append(row)
    cut: list[list[int]] = [[]]
    for rows in groups.values():
        if len(cut[-1]) >= size:
            cut.append([])
        cut[-1] += rows
    return cut


@dataclass(frozen=True)
class _Part:
    rows: list[int]
    future: RewardFuture

    def judged(self) -> float:
        """Return the number of judged rows; a row counts in fractions of its judges."""
        try:
            judged, total = self.future.progress()
        except BackendUnavailable:
            # While Redis is unreachable, the bar stops and the future keeps waiting.
            return 0.0
        return len(self.rows) * judged / total if total else 0.0


def _ended(
    manager: RewardManager,
    rollouts: Sequence[Rollout],
    cut: Sequence[list[int]],
    place: Place,
    show: Callable[[float], None],
) -> Iterator[tuple[list[int], RewardBatch]]:
    """Submit a few batches ahead, and yield the results in order, each with its row numbers."""
    under_way: deque[_Part] = deque()
    try:
        for step, rows in enumerate(cut):
            if len(under_way) == _AHEAD:
                yield _first_ended(under_way, show)
            while True:
                try:
                    future = manager.submit(
                        [rollouts[row] for row in rows],
                        run=place.run,
                        step=step,
                        split=place.split,
                        priority="background",
                    )
                    break
                except BackendUnavailable:
                    # A batch under way ends only once the broker is back or has room.
                    if not under_way:
                        raise
                    yield _first_ended(under_way, show)
            under_way.append(_Part(rows, future))
        while under_way:
            yield _first_ended(under_way, show)
    finally:
        # Without Redis nothing can be cancelled, and this error would hide the original one.
        with contextlib.suppress(BackendUnavailable):
            for part in under_way:
                part.future.cancel()


def _first_ended(
    under_way: deque[_Part], show: Callable[[float], None]
) -> tuple[list[int], RewardBatch]:
    ended = threading.Event()
    under_way[0].future.add_done_callback(lambda _: ended.set())
    while not ended.wait(_PROGRESS_EVERY_S):
        show(sum(part.judged() for part in under_way))
    part = under_way.popleft()
    return part.rows, part.future.outcome()
