"""Options that several commands share."""

import logging
import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from oyer.cli.support.output import notes

DEFAULT_FILE = Path("oyer.yaml")
"""The configuration that is used if neither --config nor OYER_CONFIG names one."""


def _found(context: typer.Context, path: Path | None) -> Path | None:
    """Return the named file, or the folder's own with a note."""
    if path is not None:
        return Path(os.path.expanduser(path))
    if context.resilient_parsing or os.environ.get("OYER_CONFIG") or not DEFAULT_FILE.is_file():
        return None
    notes.print(f"using ./{DEFAULT_FILE}", highlight=False)
    return DEFAULT_FILE


Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        callback=_found,
        help="YAML or TOML file; defaults to the one that OYER_CONFIG names, then to ./oyer.yaml.",
    ),
]

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]

FORMAT_VARIABLE = "OYER_LOG_FORMAT"
"""Passes the log format to worker processes; `oyer.tasks.worker.logging` reads it."""

LogFormat = Annotated[
    Literal["text", "json"],
    typer.Option("--log-format", envvar=FORMAT_VARIABLE, help="Format of the log lines."),
]

RecordUrl = Annotated[
    str | None, typer.Option("--url", help="URL of the record, instead of store.url.")
]


def record_url(config: Path | None, url: str | None) -> str:
    """Return the URL of the record from the option or the configuration."""
    from oyer.config.loading import load_config

    return url or load_config(config).store.url


def log_to_stderr(log_format: str, *, level: int = logging.WARNING) -> None:
    """Send the log lines of this process, and of the workers that it starts, to standard error."""
    from oyer.tasks.worker.logging import configure_logging

    os.environ[FORMAT_VARIABLE] = log_format
    configure_logging(level)
