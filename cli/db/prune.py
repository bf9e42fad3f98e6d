"""`oyer db prune`: delete batches that are no longer needed, or their texts."""

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from oyer.cli.support import options
from oyer.cli.support.output import console, notes, print_json
from oyer.protocol.errors import InvalidInput

_UNITS = {"h": "hours", "d": "days", "w": "weeks"}


def prune(
    older_than: Annotated[
        str | None,
        typer.Option("--older-than", help="Batches submitted longer ago: 90d, 12w or 36h."),
    ] = None,
    run: Annotated[
        list[str] | None, typer.Option("--run", help="Batches of this run; may be repeated.")
    ] = None,
    keep_run: Annotated[
        list[str] | None, typer.Option("--keep-run", help="Keep this run; may be repeated.")
    ] = None,
    texts: Annotated[
        bool,
        typer.Option(
            "--texts", help="Drop prompts, responses, references and replies; keep the scores."
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be deleted, and end.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before deleting.")] = False,
    config: options.Config = None,
    url: options.RecordUrl = None,
    as_json: options.AsJson = False,
) -> None:
    """Delete ended batches with all that belongs to them, while workers run.

    It says first how much that is, and asks. Batches that have not ended are kept. A deleted
    judgement is not reused: the same request is paid for again. On PostgreSQL it runs as the owner of the record.
    SQLite keeps the size of its file and fills the space again; `oyer db backup` writes a smaller
    copy.

    Example: `oyer db prune --older-than 90d --keep-run baseline --texts`
    """
    from oyer.cli.support.database import existing
    from oyer.models.engine import reading
    from oyer.models.prune import Selection, not_ended, selected, unknown_runs

    if older_than is None and not run:
        raise InvalidInput("say which batches: --older-than 90d, --run NAME, or both")
    before = None if older_than is None else datetime.now(UTC) - _age(older_than)
    selection = Selection(before, tuple(run or ()), tuple(keep_run or ()))
    with existing(options.record_url(config, url)) as engine:
        with reading(engine) as conn:
            unknown = unknown_runs(conn, [*selection.runs, *selection.keep_runs])
            if unknown:
                raise InvalidInput(f"run {unknown[0]!r}: is not on record; `oyer batches list`")
            found, kept = selected(conn, selection), not_ended(conn, selection)
        what = "texts and replies of " if texts else ""
        summary = f"{what}{found.batches} batches with {found.rollouts} rollouts"
        if kept:
            notes.print(f"{kept} batches have not ended and are kept", highlight=False)
        if dry_run or found.batches == 0:
            _report(f"would delete {summary}", found.batches, found.rollouts, as_json)
            return
        if not yes:
            typer.confirm(f"delete {summary}?", abort=True, err=True)
        done = _prune(engine, selection, found.rollouts, texts_only=texts)
    _report(f"deleted {what}{done[0]} batches with {done[1]} rollouts", *done, as_json)


def _age(text: str) -> timedelta:
    match = re.fullmatch(r"(\d{1,5})([hdw])", text.strip())
    if match is None:
        raise InvalidInput(f"--older-than {text!r}: is no age; write 90d, 12w or 36h")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


def _prune(engine: object, selection: object, total: int, *, texts_only: bool) -> tuple[int, int]:
    from rich.progress import Progress
    from sqlalchemy import Engine

    from oyer.models.prune import Selection, prune

    assert isinstance(engine, Engine)
    assert isinstance(selection, Selection)
    batches = rollouts = 0
    with Progress(console=notes, disable=not notes.is_terminal, transient=True) as progress:
        task = progress.add_task("deleting", total=total)
        for done in prune(engine, selection, texts_only=texts_only):
            batches, rollouts = batches + done.batches, rollouts + done.rollouts
            progress.update(task, completed=rollouts)
    return batches, rollouts


def _report(text: str, batches: int, rollouts: int, as_json: bool) -> None:
    if as_json:
        print_json({"batches": batches, "rollouts": rollouts})
    else:
        console.print(text, highlight=False, markup=False, soft_wrap=True)
