"""`oyer db export`: writes all rows of a run to files for pandas, Polars, DuckDB and others."""

import re
from pathlib import Path
from typing import Annotated

import typer

from oyer.cli.support import options
from oyer.cli.support.output import console, counted, notes, print_json
from oyer.history.files.formats import FileFormat
from oyer.protocol.errors import InvalidInput

Run = Annotated[str, typer.Argument(metavar="RUN", help="Name of the run.")]
To = Annotated[
    FileFormat,
    typer.Option(
        "--to",
        help="`parquet` and `jsonl` write a file per table, `duckdb` one database. `parquet` and"
        " `duckdb` need `pip install 'oyer[export]'`.",
    ),
]
Out = Annotated[
    Path | None,
    typer.Option("--out", help="The folder to write; it must not exist. Defaults to RUN-export."),
]


def export(
    run: Run,
    to: To,
    out: Out = None,
    config: options.Config = None,
    url: options.RecordUrl = None,
    as_json: options.AsJson = False,
) -> None:
    """Write a run to files: rollouts, rewards with terms, judgements, criteria, attempts and batches.

    The tables and columns are those of docs/record.md, with texts in place of their hashes. The
    files show the record at one moment, while workers write. `export.json` holds the number of rows
    of each table. The folder appears once it is complete.

    Example: `oyer db export first --to parquet --out first-parquet`
    """
    from rich.progress import Progress

    from oyer.cli.support.database import existing
    from oyer.history.files.run_export import export_run

    folder = out if out is not None else Path(re.sub(r"[^\w.-]+", "_", run) + "-export")
    with (
        existing(options.record_url(config, url)) as engine,
        Progress(console=notes, disable=not notes.is_terminal, transient=True) as progress,
    ):
        task = progress.add_task("exporting", total=None)

        def advance(table: str, rows: int) -> None:
            progress.update(task, description=f"exporting {table}", advance=rows)

        try:
            manifest = export_run(engine, run, to, folder, advance)
        except OSError as error:
            raise InvalidInput(f"--out {folder}: {error}") from error
    if as_json:
        print_json({"folder": str(folder), **manifest})
        return
    rows = manifest["rows"]
    summary = f"{counted(rows['rollouts'], 'rollout')}, {counted(rows['judgements'], 'judgement')}"
    console.print(f"wrote {folder}: {summary}", highlight=False, markup=False, soft_wrap=True)
