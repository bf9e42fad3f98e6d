"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

Config = Annotated[
    Path | None,
    typer.Option("--config", help="YAML or TOML file; the variable OYER_CONFIG names it as well."),
]

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for a program to read.")]

RecordUrl = Annotated[str | None, typer.Option("--url", help="The record, instead of store.url.")]


def record_url(config: Path | None, url: str | None) -> str:
    """Return the URL of the record: the option's, or the configuration's."""
    from oyer.tasks.settings import load_config

    return url or load_config(config).store.url
