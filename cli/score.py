"""`oyer score`: a file of rollouts through a backend."""

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from oyer.cli.support import options
from oyer.cli.support.output import counted, notes, print_json, print_part, print_stopping
from oyer.protocol.errors import InvalidInput, MissingScores

if TYPE_CHECKING:
    from oyer.cli.support.score_files import Summary


JUDGING_FAILED = 3
"""Exit code where rewards are written, but a rollout that was to be judged has no score."""


def score(
    rollouts: Annotated[Path, typer.Argument(help="JSON lines, one rollout each.")],
    config: options.Config = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="File for the rewards; standard output if left out."),
    ] = None,
    run: Annotated[
        str, typer.Option("--run", help="Name of the run that the record files the batches under.")
    ] = "score",
    local: Annotated[
        bool, typer.Option("--local", help="Start an embedded backend for this file only.")
    ] = False,
    batch_size: Annotated[
        int,
        typer.Option("--batch-size", min=1, help="Rollouts per batch; a group is never divided."),
    ] = 1024,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the summary as JSON, and no progress.")
    ] = False,
) -> None:
    """Score a file of rollouts and write one JSON line per rollout, in the file's order.

    A line is `{"group_id": …, "prompt": …, "response": …, "base_score": … or "correct": …,
    "response_tokens": …, "reference": …}`; further keys are kept as metadata. The whole file is
    checked first: a bad line is reported with its number, and nothing is submitted.

    Exit code 0: every rollout that was to be judged has a score. 3: rewards are written, but
    judging failed for a rollout or more, and its status says why. 1: an error, and nothing is
    written. 2: a wrong option.

    Example: `oyer score rollouts.jsonl --config oyer.yaml --out rewards.jsonl`
    """
    from oyer.cli.support.jsonl import read_rollouts
    from oyer.cli.support.score_files import score_all
    from oyer.config.loading import load_config
    from oyer.manager import RewardManager
    from oyer.manager.batch import OTHER_REWARDS

    settings = load_config(config)
    rows = read_rollouts(rollouts, settings)
    report = None if as_json else print_part

    def start() -> RewardManager:
        return RewardManager.local(settings, report=report) if local else RewardManager(settings)

    try:
        with contextlib.ExitStack() as backend:
            with _whole(out) as target:
                manager = backend.enter_context(start())
                lines, summary = score_all(
                    manager, rows, run=run, batch_size=batch_size, quiet=as_json
                )
                target.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
            _print(summary, out, as_json=as_json)
            if local and not as_json:
                print_stopping()
    except MissingScores as error:
        said = str(error).removesuffix(OTHER_REWARDS)
        raise MissingScores(f"{said}; nothing was written", error.batch) from error
    except KeyboardInterrupt:
        notes.print(
            "interrupted: running batches are cancelled, and nothing is written; judgements on record"
            " are not paid for again",
            highlight=False,
            soft_wrap=True,
        )
        raise
    if summary.failed:
        raise typer.Exit(JUDGING_FAILED)


@contextlib.contextmanager
def _whole(out: Path | None) -> Iterator[TextIO]:
    """Open the output before anything is paid for, and leave a whole file or none."""
    if out is None:
        yield sys.stdout
        return
    partial = out.with_name(out.name + ".partial")
    try:
        file = partial.open("w", encoding="utf-8")
    except OSError as error:
        raise InvalidInput(f"--out {out}: {error.strerror}; name a file to write") from error
    try:
        with file:
            yield file
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)


def _print(summary: "Summary", out: Path | None, *, as_json: bool) -> None:
    """Print the summary; on standard error where rewards are on standard output."""
    if as_json:
        print_json({**summary.report(), "out": out and str(out)}, err=out is None)
        return
    statuses = ", ".join(f"{n} {status}" for status, n in sorted(summary.statuses.items()))
    notes.print(
        f"{counted(summary.rollouts, 'rollout')} in {summary.seconds:.1f} s: {statuses};"
        f" {summary.used}" + (f"; {out}" if out else ""),
        highlight=False,
        soft_wrap=True,
        markup=False,
    )
    summary.print_errors()
