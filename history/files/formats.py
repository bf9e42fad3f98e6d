"""The formats of exported files, and the kinds of their columns."""

from enum import StrEnum
from typing import Literal


class FileFormat(StrEnum):
    """What a run is exported to."""

    PARQUET = "parquet"
    JSONL = "jsonl"
    DUCKDB = "duckdb"


ColumnKind = Literal["text", "integer", "float", "boolean", "time", "json"]
"""The kind of a column, which gives its type in Parquet and DuckDB."""
