"""`oyer score`: a file of rollouts through a backend."""

import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, TextIO

import typer

from oyer.cli.output import notes, print_json
from oyer.cli.rollout_lines import read_rollouts, write_rewards
from oyer.cli.scoring import Summary, batches, score_all
from oyer.manager import RewardManager
from oyer.manager.validation import check


def score(
    rollouts: Annotated[Path, typer.Argument(help="JSON lines, one rollout each.")],
    config: Annotated[Path, typer.Option("--config", help="Configuration file.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="Where rewards go; standard output otherwise.")
    ] = None,
    run: Annotated[str, typer.Option("--run", help="Run to file the batches under.")] = "score",
    local: Annotated[
        bool, typer.Option("--local", help="Start an embedded backend for this file only.")
    ] = False,
    batch_size: Annotated[
        int, typer.Option("--batch-size", min=1, help="Rollouts per batch; groups stay whole.")
    ] = 1024,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the summary as JSON, and no progress.")
    ] = False,
) -> None:
    """Score a file of rollouts and write one JSON line per rollout.

    A line is `{"group_id": …, "prompt": …, "response": …, "base_score": … or "correct": …,
    "response_tokens": …, "reference": …}`. The whole file is checked first: a bad line is
    reported with its number, and nothing is submitted.
    """
    rows = read_rollouts(rollouts)
    started = time.monotonic()
    summary = Summary()
    with _manager(config, local=local) as manager, _target(out) as target:
        check(rows, manager.config)
        for part, batch in score_all(manager, batches(rows, batch_size), run=run, quiet=as_json):
            write_rewards(target, part, batch)
            summary.add(batch)
    summary.seconds = time.monotonic() - started
    _print(summary, out, as_json=as_json)


@contextlib.contextmanager
def _target(out: Path | None) -> Iterator[TextIO]:
    """Open the output only now that there is something to write, and never leave half a file."""
    if out is None:
        yield sys.stdout
        return
    partial = out.with_name(out.name + ".partial")
    with partial.open("w", encoding="utf-8") as file:
        yield file
    partial.replace(out)


def _manager(config: Path, *, local: bool) -> RewardManager:
    return RewardManager.local(config) if local else RewardManager.from_file(config)


def _print(summary: Summary, out: Path | None, *, as_json: bool) -> None:
    if as_json and out is not None:
        print_json(
            {
                "rollouts": summary.rollouts,
                "seconds": round(summary.seconds, 3),
                "statuses": dict(summary.statuses),
                "calls": summary.calls,
                "tokens": summary.tokens,
                "cost_usd": summary.cost_usd,
                "out": str(out),
            }
        )
        return
    statuses = ", ".join(f"{n} {status}" for status, n in sorted(summary.statuses.items()))
    notes.print(
        f"{summary.rollouts} rollouts in {summary.seconds:.1f} s: {statuses}; {summary.calls} calls,"
        f" {summary.tokens} tokens, ${summary.cost_usd:.4f}" + (f"; {out}" if out else ""),
        highlight=False,
    )
