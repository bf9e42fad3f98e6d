"""Options that several commands share."""

import os
from pathlib import Path
from typing import Annotated

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

RecordUrl = Annotated[
    str | None, typer.Option("--url", help="URL of the record, instead of store.url.")
]


def record_url(config: Path | None, url: str | None) -> str:
    """Return the URL of the record from the option or the configuration."""
    from oyer.config.loading import load_config

    return url or load_config(config).store.url
