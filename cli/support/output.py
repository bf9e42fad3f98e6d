"""Prints tables, progress, errors and JSON."""

import json
import os
import re
from collections.abc import Iterable
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.markup import escape
from rich.measure import Measurement
from rich.segment import Segment

if TYPE_CHECKING:
    from rich.table import Table

_UNSAFE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Control characters except tab and newline, and marks that reverse the direction of text. Terminals
execute escape sequences, so that a response could rewrite the screen or the clipboard."""


def printable(text: str) -> str:
    """Replace characters that a terminal would execute by escapes such as `\\x1b`."""
    return _UNSAFE.sub(lambda found: ascii(found[0])[1:-1], text)


class _SafeConsole(Console):
    """A console that prints control characters of texts as escapes; its own styles remain."""

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Render with printable texts."""
        for segment in super().render(renderable, options):
            text = segment.text if segment.control else printable(segment.text)
            yield segment if text == segment.text else Segment(text, segment.style)


console = _SafeConsole()
"""Prints results to standard output."""

notes = _SafeConsole(stderr=True)
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
    return console if known else _SafeConsole(width=_FILE_COLUMNS)


def print_json(value: Any, *, err: bool = False) -> None:
    """Print a value on one line of standard output, or of standard error."""
    text = json.dumps(value, ensure_ascii=False)
    # JSON escapes only some control characters by itself.
    typer.echo(_UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text), err=err)


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, e.g. "1 rollout" or "2 batches"."""
    ending = "es" if noun.endswith("ch") else "s"
    return f"{number} {noun}" if number == 1 else f"{number} {noun}{ending}"


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
