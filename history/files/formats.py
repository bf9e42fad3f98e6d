"""The formats of exported files, and the kinds of their columns."""

from enum import StrEnum


class FileFormat(StrEnum):
    """What a run is exported to."""

    PARQUET = "parquet"
    JSONL = "jsonl"
    DUCKDB = "duckdb"


COLUMN_KINDS = ("text", "integer", "float", "boolean", "time", "json")
"""Kinds of columns, which give the types in Parquet and DuckDB."""
