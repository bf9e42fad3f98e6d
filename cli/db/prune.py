"""`oyer db prune`: deletes batches that are no longer needed, or their texts."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from oyer.cli.db.selection import DryRun, KeepRun, Yes, age_of, check_runs
from oyer.cli.support import options
from oyer.cli.support.output import console, counted, notes, print_json
from oyer.protocol.errors import InvalidInput

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from oyer.models.pruning.prune import Pruned, Selection

OlderThan = Annotated[
    str | None,
    typer.Option("--older-than", help="Batches submitted longer ago than this: 90d, 12w or 36h."),
]
Run = Annotated[
    list[str] | None, typer.Option("--run", help="Batches of this run; may be repeated.")
]
Texts = Annotated[
    bool,
    typer.Option(
        "--texts", help="Delete prompts, responses, references and replies only; keep the scores."
    ),
]


def prune(
    older_than: OlderThan = None,
    run: Run = None,
    keep_run: KeepRun = None,
    texts: Texts = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    config: options.Config = None,
    url: options.RecordUrl = None,
    as_json: options.AsJson = False,
) -> None:
    """Delete finished batches and their rows, while workers run.

    It prints first how much will be deleted, and asks for confirmation. Unfinished batches are
    kept. A deleted judgement is not reused: the same request is paid for again. On PostgreSQL it
    needs the owner of the record. An SQLite file does not shrink; later batches reuse the space,
    and `oyer db backup` writes a smaller copy.

    Example: `oyer db prune --older-than 90d --keep-run baseline --texts`
    """
    from oyer.cli.support.database import existing
    from oyer.models.pruning.prune import Selection

    if older_than is None and not run:
        raise InvalidInput("select batches: --older-than 90d, --run NAME, or both")
    before = None if older_than is None else datetime.now(UTC) - age_of("--older-than", older_than)
    selection = Selection(before, tuple(run or ()), tuple(keep_run or ()))
    with existing(options.record_url(config, url)) as engine:
        found = _selected(engine, selection)
        what = "texts and replies of " if texts else ""
        summary = f"{what}{_counts(found.batches, found.rollouts)}"
        if dry_run or found.batches == 0:
            _report(f"would delete {summary}", found.batches, found.rollouts, as_json)
            return
        if not yes:
            typer.confirm(f"delete {summary}?", abort=True, err=True)
        batches, rollouts = _prune(engine, selection, found.rollouts, texts_only=texts)
    text = f"deleted {what}{_counts(batches, rollouts)}"
    _report(text, batches, rollouts, as_json)


def _selected(engine: "Engine", selection: "Selection") -> "Pruned":
    """Count what a selection holds.

    Raises:
        InvalidInput: it names an unknown run.
    """
    from oyer.models.engine import reading
    from oyer.models.pruning.prune import not_ended, selected

    with reading(engine) as conn:
        check_runs(conn, [*selection.runs, *selection.keep_runs])
        found, kept = selected(conn, selection), not_ended(conn, selection)
    if kept:
        verb = "has not ended and is kept" if kept == 1 else "have not ended and are kept"
        notes.print(f"{counted(kept, 'batch')} {verb}", highlight=False)
    return found


def _prune(
    engine: "Engine", selection: "Selection", total: int, *, texts_only: bool
) -> tuple[int, int]:
    """Delete with a progress bar; returns the numbers of batches and rollouts."""
    from rich.progress import Progress

    from oyer.models.pruning.prune import prune

    batches = rollouts = 0
    with Progress(console=notes, disable=not notes.is_terminal, transient=True) as progress:
        task = progress.add_task("deleting", total=total)
        for done in prune(engine, selection, texts_only=texts_only):
            batches, rollouts = batches + done.batches, rollouts + done.rollouts
            progress.update(task, completed=rollouts)
    return batches, rollouts


def _counts(batches: int, rollouts: int) -> str:
    return f"{counted(batches, 'batch')} with {counted(rollouts, 'rollout')}"


def _report(text: str, batches: int, rollouts: int, as_json: bool) -> None:
    if as_json:
        print_json({"batches": batches, "rollouts": rollouts})
    else:
        console.print(text, highlight=False, markup=False, soft_wrap=True)
