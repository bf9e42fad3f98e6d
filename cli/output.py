"""What the commands print: tables and progress on a terminal, JSON where a program reads."""

import json
from importlib.metadata import version
from typing import Any

import typer
from rich.console import Console

console = Console()
"""Results, on standard output."""

notes = Console(stderr=True)
"""Progress, health and errors, on standard error."""


def print_json(value: Any) -> None:
    """Print a value on one line."""
    typer.echo(json.dumps(value, ensure_ascii=False))


def fail(message: str) -> None:
    """Print an error."""
    notes.print(f"[bold red]error[/] {message}", markup=True, highlight=False, soft_wrap=True)


def print_version(wanted: bool) -> None:
    """Print the version and end."""
    if wanted:
        typer.echo(f"oyer {version('oyer')}")
        raise typer.Exit
