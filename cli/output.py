"""What the commands print: tables and progress on a terminal, JSON where a program reads."""

import json
import os
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.markup import escape

if TYPE_CHECKING:
    from rich.table import Table

console = Console()
"""Results, on standard output."""

notes = Console(stderr=True)
"""Progress, health and errors, on standard error."""


_FILE_COLUMNS = 10_000
"""Width of what goes into a file or a pipe: no line of a table is broken there."""


def print_table(table: "Table") -> None:
    """Print a table as wide as its cells, or as the terminal where that is narrower."""
    fits = console.is_terminal or os.environ.get("COLUMNS")
    (console if fits else Console(width=_FILE_COLUMNS)).print(table, highlight=False)


def print_json(value: Any, *, err: bool = False) -> None:
    """Print a value on one line of standard output, or of standard error."""
    typer.echo(json.dumps(value, ensure_ascii=False), err=err)


def fail(message: str) -> None:
    """Print an error."""
    notes.print(f"[bold red]error[/] {escape(message)}", highlight=False, soft_wrap=True)


def print_version(wanted: bool) -> None:
    """Print the version and end."""
    if wanted:
        typer.echo(f"oyer {version('oyer')}")
        raise typer.Exit
