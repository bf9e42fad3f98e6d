"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

Config = Annotated[
    Path | None,
    typer.Option("--config", help="YAML or TOML file; the variable OYER_CONFIG names it as well."),
]

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for a program to read.")]
