"""`oyer score`: scores a file of rollouts."""

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
    from oyer.cli.support.score_files import Place, Summary
    from oyer.config.reward import RewardConfig
    from oyer.manager import Rollout

JUDGING_FAILED = 3
"""Exit code if rewards were written, but judging failed for a rollout."""


Rollouts = Annotated[Path, typer.Argument(help="JSON lines, one rollout each.")]
Out = Annotated[
    Path | None, typer.Option("--out", help="File for the rewards; defaults to standard output.")
]
Run = Annotated[str, typer.Option("--run", help="Run to record the batches under.")]
Split = Annotated[
    str | None,
    typer.Option(
        "--split", help="Purpose of the rollouts on record, e.g. eval; default: training."
    ),
]
Local = Annotated[bool, typer.Option("--local", help="Start an embedded backend for this command.")]
BatchSize = Annotated[
    int, typer.Option("--batch-size", min=1, help="Rollouts per batch; groups are not split.")
]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print the summary as JSON, without progress.")
]


def score(
    rollouts: Rollouts,
    config: options.Config = None,
    out: Out = None,
    run: Run = "score",
    split: Split = None,
    local: Local = False,
    batch_size: BatchSize = 1024,
    as_json: AsJson = False,
) -> None:
    """Score a file of rollouts and write one JSON line per rollout, in the file's order.

    A line is `{"group_id": …, "prompt": …, "response": …, "base_score": … or "correct": …,
    "response_tokens": …, "reference": …, "tools": …}`; other keys are stored as metadata. Prompt and
    response are text or chat messages. The whole file is checked first: an invalid line is reported
    with its number, and nothing is submitted.

    A line written has the reward, its `terms`, and as `components` each judge's score, criterion and
    length term; `criteria` has verdicts with reasons, `turn_scores` the scores by turn.

    Exit code 0: judging succeeded for every rollout. 3: rewards are written, but judging failed for
    at least one rollout; its status gives the reason. 1: an error; nothing is written. 2: a wrong
    option.

    Example: `oyer score rollouts.jsonl --config oyer.yaml --out rewards.jsonl`
    """
    from oyer.cli.support.jsonl import read_rollouts
    from oyer.cli.support.score_files import Place
    from oyer.config.loading import load_config

    settings = load_config(config)
    rows = read_rollouts(rollouts, settings)
    try:
        place = Place(run, split)
        summary = _score(settings, rows, out, place, batch_size, local=local, as_json=as_json)
    except KeyboardInterrupt:
        notes.print(
            "interrupted: running batches are cancelled, and nothing is written; recorded judgements"
            " are not paid for again",
            highlight=False,
            soft_wrap=True,
        )
        raise
    if summary.failed:
        raise typer.Exit(JUDGING_FAILED)


def _score(
    settings: "RewardConfig",
    rows: "list[Rollout]",
    out: Path | None,
    place: "Place",
    batch_size: int,
    *,
    local: bool,
    as_json: bool,
) -> "Summary":
    """Score the rollouts, write their rewards and print the summary."""
    from oyer.cli.support.score_files import score_all
    from oyer.manager import RewardManager
    from oyer.manager.batch import OTHER_REWARDS

    with contextlib.ExitStack() as backend:
        try:
            with _atomic(out) as target:
                report = None if as_json else print_part
                manager = backend.enter_context(
                    RewardManager.local(settings, report=report)
                    if local
                    else RewardManager(settings)
                )
                lines, summary = score_all(
                    manager, rows, place, batch_size=batch_size, quiet=as_json
                )
                target.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        except MissingScores as error:
            message = str(error).removesuffix(OTHER_REWARDS)
            raise MissingScores(f"{message}; nothing was written", error.batch) from error
        _print(summary, out, as_json=as_json)
        if local and not as_json:
            print_stopping()
    return summary


@contextlib.contextmanager
def _atomic(out: Path | None) -> Iterator[TextIO]:
    """Open the output before any judge call, and write the whole file or nothing."""
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
    """Print the summary, on standard error if the rewards are on standard output."""
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
