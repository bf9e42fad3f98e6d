"""Writes rows of tables as JSON lines, Parquet or a DuckDB database.

- JSON values are text in Parquet and DuckDB; times are in UTC with microseconds.
- The record holds no NaN, no infinity, no NUL and no lone surrogate (`models/base.py`). Should a foreign
  row hold one, NaN and infinity become null, and NUL and lone surrogates U+FFFD, in every format.
"""

import io
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from oyer.history.files.formats import ColumnKind, FileFormat
from oyer.local.extras import missing
from oyer.models.base import clean_json, clean_text, dump_json

if TYPE_CHECKING:
    import pyarrow as pa

Row = Mapping[str, Any]

_GROUP_ROWS = 10_000
"""Most rows in a row group of Parquet or an insert into DuckDB."""

_GROUP_CHARACTERS = 16_000_000
"""Characters of text after which a row group is written, so that long responses fit into memory."""


class Writer(Protocol):
    """Writes the rows of one table after another."""

    def start(self, table: str, kinds: Mapping[str, ColumnKind]) -> None:
        """Begin a table with columns of these kinds."""

    def write(self, rows: Sequence[Row]) -> None:
        """Add rows to the table."""

    def finish(self) -> None:
        """End the table; a table without rows has its columns all the same."""

    def close(self) -> None:
        """End the file or files."""


def writer_of(kind: FileFormat, folder: Path) -> Writer:
    """Return the writer of a format, into this folder.

    Raises:
        MissingExtra: a library that the format needs is not installed.
    """
    if kind is FileFormat.JSONL:
        return JsonlWriter(folder)
    if kind is FileFormat.PARQUET:
        return ParquetWriter(folder)
    return DuckDbWriter(folder)


class JsonlWriter:
    """Writes one file of JSON lines per table."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: TextIO | None = None

    def start(self, table: str, kinds: Mapping[str, ColumnKind]) -> None:
        self._file = (self._folder / f"{table}.jsonl").open("w", encoding="utf-8", newline="\n")

    def write(self, rows: Sequence[Row]) -> None:
        assert self._file is not None
        self._file.writelines(f"{json_line(row)}\n" for row in rows)

    def finish(self) -> None:
        self.close()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


class _ArrowWriter(ABC):
    """Collects the rows of a table, and hands them on in groups as Arrow tables."""

    def __init__(self) -> None:
        self._pa = needed("pyarrow")
        self._schema: pa.Schema = None
        self._rows: list[Row] = []
        self._characters = 0

    def start(self, table: str, kinds: Mapping[str, ColumnKind]) -> None:
        self._schema = arrow_schema(kinds)
        self._open(table)

    def write(self, rows: Sequence[Row]) -> None:
        for row in rows:
            self._rows.append(row)
            self._characters += sum(len(v) for v in row.values() if isinstance(v, str))
            if len(self._rows) >= _GROUP_ROWS or self._characters >= _GROUP_CHARACTERS:
                self._flush()

    def finish(self) -> None:
        if self._rows:
            self._flush()

    @abstractmethod
    def close(self) -> None:
        """End the file or files."""

    def _flush(self) -> None:
        self._group(arrow_table(self._rows, self._schema))
        self._rows, self._characters = [], 0

    @abstractmethod
    def _open(self, table: str) -> None:
        """Begin a table with the columns of `_schema`."""

    @abstractmethod
    def _group(self, group: "pa.Table") -> None:
        """Add rows to the table."""


class ParquetWriter(_ArrowWriter):
    """Writes one Parquet file per table."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._parquet = needed("pyarrow.parquet")
        self._folder = folder
        self._file: Any = None

    def _open(self, table: str) -> None:
        path = self._folder / f"{table}.parquet"
        self._file = self._parquet.ParquetWriter(path, self._schema, compression="zstd")

    def _group(self, group: "pa.Table") -> None:
        self._file.write_table(group)

    def finish(self) -> None:
        super().finish()
        self.close()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


class DuckDbWriter(_ArrowWriter):
    """Writes one DuckDB database, `record.duckdb`, with all tables."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._duckdb = needed("duckdb")
        # Without a limit, DuckDB takes up to 80 % of the machine's memory.
        self._database = self._duckdb.connect(
            str(folder / "record.duckdb"), config={"memory_limit": "1GB"}
        )
        self._table = ""

    def _open(self, table: str) -> None:
        self._table = table
        self._run(f'CREATE TABLE "{table}" AS', self._schema.empty_table())

    def _group(self, group: "pa.Table") -> None:
        self._run(f'INSERT INTO "{self._table}"', group)

    def _run(self, what: str, page: "pa.Table") -> None:
        self._database.register("page", page)
        try:
            self._database.execute(f"{what} SELECT * FROM page")
        except self._duckdb.IOException as error:  # such as a full disk
            raise OSError(str(error)) from error

    def close(self) -> None:
        self._database.close()


def needed(library: str) -> Any:
    """Load a library of the extra `export`.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        return import_module(library)
    except ModuleNotFoundError as error:
        raise missing("this format", library.partition(".")[0], "export") from error


def json_line(row: Row) -> str:
    """Return a row as strict JSON on one line; its columns keep their order."""
    return dump_json(
        {name: _time_text(v) if isinstance(v, datetime) else v for name, v in row.items()},
        sort_keys=False,
    )


def arrow_schema(kinds: Mapping[str, ColumnKind]) -> "pa.Schema":
    """Return the Arrow types of columns."""
    pa = needed("pyarrow")
    types = {
        "text": pa.string(),
        "integer": pa.int64(),
        "float": pa.float64(),
        "boolean": pa.bool_(),
        "time": pa.timestamp("us", tz="UTC"),
        "json": pa.string(),
    }
    return pa.schema([(name, types[kind]) for name, kind in kinds.items()])


def arrow_table(rows: Sequence[Row], schema: "pa.Schema | None" = None) -> "pa.Table":
    """Return rows as an Arrow table; without a schema, the types are those of the values."""
    pa = needed("pyarrow")
    names = schema.names if schema is not None else list(dict.fromkeys(n for r in rows for n in r))
    columns = {name: [_arrow_value(row.get(name)) for row in rows] for name in names}
    return pa.table(columns, schema=schema)


def parquet_bytes(rows: Sequence[Row]) -> bytes:
    """Return rows as one Parquet file.

    Raises:
        MissingExtra: pyarrow is not installed.
    """
    buffer = io.BytesIO()
    needed("pyarrow.parquet").write_table(arrow_table(rows), buffer)
    return buffer.getvalue()


def _arrow_value(value: Any) -> Any:
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, dict | list):
        return json.dumps(clean_json(value), ensure_ascii=False)
    return clean_json(value) if isinstance(value, float) else value


def _time_text(time: datetime) -> str:
    """Return a time as SQLite stores it."""
    return time.astimezone(UTC).isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"
