"""`oyer config`: prints an example configuration file."""

from typing import Annotated

import typer


def config(
    minimal: Annotated[
        bool, typer.Option("--minimal", help="Print only the keys that one judge needs.")
    ] = False,
) -> None:
    """Print an example configuration file that documents every key.

    Example: `oyer config > oyer.yaml`
    """
    from oyer.cli.support.example_config import MINIMAL, example

    typer.echo(MINIMAL if minimal else example(), nl=False)
