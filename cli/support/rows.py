"""Prints query results as a table, JSON lines or CSV."""

import csv
import json
import math
import sys
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from rich.markup import escape
from rich.table import Table

from oyer.cli.support.output import console, print_json, print_table, printable

_CELL_CHARACTERS = 200
"""Maximum length of a table cell; JSON and CSV have the whole text."""

_TABLE_ROWS = 1000
"""Maximum number of rows laid out by Rich, which takes about a millisecond per row."""

_JSON_COLUMNS = frozenset({"terms", "metadata", "plan", "counts", "usage"})
"""Columns with JSON, which SQLite returns as text."""


class Rows:
    """Counts the rows of a result as they arrive."""

    def __init__(self, columns: list[str], rows: Iterable[tuple[Any, ...]]) -> None:
        self.columns = columns
        self.count = 0
        self._rows = rows

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        for row in self._rows:
            self.count += 1
            yield row


def print_json_rows(rows: Rows) -> None:
    """Print one JSON object per row."""
    for row in rows:
        print_json({name: _json(name, v) for name, v in zip(rows.columns, row, strict=True)})


def print_csv(rows: Rows) -> None:
    """Print a header and the rows as CSV; NULL is an empty field."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(rows.columns)
    for row in rows:
        writer.writerow([_csv(value) for value in row])


def print_rows(rows: Rows) -> None:
    """Print a table, by Rich on a terminal and otherwise in plain columns."""
    cells = [[_cell(value) for value in row] for row in rows]
    if not console.is_terminal or len(cells) > _TABLE_ROWS:
        _print_plain(rows.columns, cells)
        return
    table = Table(*map(escape, rows.columns))
    for row in cells:
        table.add_row(*map(escape, row))
    print_table(table)


def _print_plain(columns: list[str], cells: list[list[str]]) -> None:
    """Print aligned columns with one line per row."""
    lines = [columns, *([cell.replace("\n", "\\n") for cell in row] for row in cells)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    for line in lines:
        padded = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        sys.stdout.write("  ".join(padded).rstrip() + "\n")


def _json(name: str, value: Any) -> Any:
    """Convert a value to JSON; non-finite numbers become null."""
    if isinstance(value, Decimal):
        value = int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _json("", item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json("", item) for item in value]
    if name in _JSON_COLUMNS and isinstance(value, str) and value[:1] in ("{", "["):
        return json.loads(value)
    if isinstance(value, str | int | bool | None):
        return value
    return _text(value)


def _csv(value: Any) -> Any:
    return value if isinstance(value, str | int | float | None) else _text(value)


def _cell(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, float):
        return _number(value)
    return printable(_text(value)[:_CELL_CHARACTERS])


def _number(value: float) -> str:
    """Round to six decimal places; small numbers keep four digits."""
    if value and abs(value) < 0.001:
        return f"{value:.4g}"
    return repr(round(value, 6) + 0.0)


def _text(value: Any) -> str:
    if isinstance(value, datetime):
        # As SQLite stores it, so that both databases print the same text.
        utc = value.astimezone(UTC)
        return utc.isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, bytes | memoryview):
        return bytes(value).hex()
    return str(value)
