"""`oyer config`: a configuration file to start from, with every key explained."""

from typing import Annotated

import typer


def config(
    minimal: Annotated[
        bool, typer.Option("--minimal", help="Print the few keys that one judge needs.")
    ] = False,
) -> None:
    """Print a configuration file to start from, with every key explained.

    Example: `oyer config > oyer.yaml`
    """
    from oyer.cli.support.example_config import MINIMAL, example

    typer.echo(MINIMAL if minimal else example(), nl=False)
