"""`oyer config`: prints an example configuration file, or its JSON schema."""

import json
from typing import Annotated

import typer


def config(
    minimal: Annotated[
        bool, typer.Option("--minimal", help="Print only the keys that one judge needs.")
    ] = False,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print a JSON schema of the file, for editors.")
    ] = False,
) -> None:
    """Print an example configuration file that documents every key.

    Editors with a YAML language server complete and check `oyer.yaml` by the schema: write it to
    a file, and begin `oyer.yaml` with `# yaml-language-server: $schema=oyer.schema.json`.

    Example: `oyer config > oyer.yaml`, `oyer config --schema > oyer.schema.json`
    """
    if schema:
        from oyer.cli.support.config_schema import config_schema

        typer.echo(json.dumps(config_schema(), indent=2, ensure_ascii=False))
        return
    from oyer.cli.support.example_config import MINIMAL, example

    typer.echo(MINIMAL if minimal else example(), nl=False)
