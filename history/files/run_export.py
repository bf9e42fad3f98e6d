"""Exports a run as a folder of files that is complete, or does not exist."""

import contextlib
import json
import secrets
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine

from oyer.history.files.formats import FileFormat
from oyer.history.files.run_tables import RunTables
from oyer.history.files.writers import writer_of
from oyer.protocol.errors import InvalidInput

MANIFEST = "export.json"
"""File with the run, the time and the number of rows of each table."""


def export_run(
    engine: Engine,
    run: str,
    kind: FileFormat,
    folder: Path,
    on_page: Callable[[str, int], None] = lambda _table, _rows: None,
) -> dict[str, Any]:
    """Write all rows of a run, as they were at one moment, to a new folder.

    The files are written to `<folder>.<random>.partial`, which is renamed at the end and deleted after
    an error. Other processes can write to the record meanwhile.

    Args:
        on_page: called with each page's table and number of rows.

    Returns:
        The content of the manifest.

    Raises:
        InvalidInput: the folder exists, or the run is not on record.
        MissingExtra: a library that the format needs is not installed.
    """
    if folder.exists():
        raise InvalidInput(f"--out {folder}: exists; name a folder that does not")
    with _snapshot(engine) as conn, _partial(folder) as partial:
        try:
            tables = RunTables(conn, run)
        except LookupError as error:
            raise InvalidInput(
                f"run {run!r}: is not on record; `oyer batches list` shows the runs"
            ) from error
        manifest = {
            "run": run,
            "format": kind.value,
            "exported_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "oyer_version": version("oyer"),
            "rows": _write(tables, kind, partial, on_page),
        }
        text = json.dumps(manifest, ensure_ascii=False, indent=2)
        (partial / MANIFEST).write_text(f"{text}\n", encoding="utf-8")
    return manifest


def _write(
    tables: RunTables, kind: FileFormat, folder: Path, on_page: Callable[[str, int], None]
) -> dict[str, int]:
    """Write all tables; returns the number of rows of each."""
    counts = {}
    with contextlib.closing(writer_of(kind, folder)) as writer:
        for name in tables.names:
            writer.start(name, tables.kinds(name))
            counts[name] = 0
            for page in tables.pages(name):
                writer.write(page)
                counts[name] += len(page)
                on_page(name, len(page))
            writer.finish()
    return counts


@contextlib.contextmanager
def _snapshot(engine: Engine) -> Iterator[Connection]:
    """Connect for reads that all see the record at one moment.

    On SQLite a read transaction is a snapshot; its `-wal` grows while the transaction is open.
    """
    with engine.connect() as conn:
        if engine.dialect.name == "postgresql":
            conn.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        else:
            conn.execution_options(sqlite_begin="BEGIN")
        with conn.begin():
            yield conn


@contextlib.contextmanager
def _partial(folder: Path) -> Iterator[Path]:
    """Yield a new folder, which gets its name once the block has ended without an error."""
    made = folder.with_name(f"{folder.name}.{secrets.token_hex(4)}.partial")
    made.mkdir(parents=True)
    try:
        yield made
        made.rename(folder)
    finally:
        shutil.rmtree(made, ignore_errors=True)
