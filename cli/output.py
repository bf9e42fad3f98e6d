"""What the commands print: tables and progress on a terminal, JSON where a program reads."""

import json
from importlib.metadata import version
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape

console = Console()
"""Results, on standard output."""

notes = Console(stderr=True)
"""Progress, health and errors, on standard error."""


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
