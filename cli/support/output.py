"""Prints tables, progress, errors and JSON."""

import json
import os
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement

if TYPE_CHECKING:
    from rich.table import Table

console = Console()
"""Prints results to standard output."""

notes = Console(stderr=True)
"""Prints progress, notes and errors to standard error."""


_FILE_COLUMNS = 10_000
"""Width of output to a file or a pipe, so that table rows are not wrapped."""


def print_table(table: "Table") -> None:
    """Print a table as wide as its cells, at most as wide as the terminal."""
    _output().print(table, highlight=False)


def fits(table: "Table") -> bool:
    """Whether a table fits the width without wrapped rows."""
    output = _output()
    unbound = output.options.update(width=_FILE_COLUMNS)
    return Measurement.get(output, unbound, table).maximum <= output.width


def _output() -> Console:
    known = console.is_terminal or os.environ.get("COLUMNS")
    return console if known else Console(width=_FILE_COLUMNS)


def print_json(value: Any, *, err: bool = False) -> None:
    """Print a value on one line of standard output, or of standard error."""
    typer.echo(json.dumps(value, ensure_ascii=False), err=err)


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, e.g. "1 rollout" or "2 rollouts"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def fail(message: str) -> None:
    """Print an error."""
    notes.print(f"[bold red]error[/] {escape(message)}", highlight=False, soft_wrap=True)


def print_part(part: str, state: str) -> None:
    """Print the state of a part of an embedded backend."""
    notes.print(f"{part:<12} {state}", highlight=False, markup=False, soft_wrap=True)


def print_stopping() -> None:
    """Print that the backend is stopping, which takes a few seconds."""
    notes.print("stopping the embedded backend", highlight=False)


def print_version(wanted: bool) -> None:
    """Print the version and end."""
    if wanted:
        typer.echo(f"oyer {version('oyer')}")
        raise typer.Exit
