"""`oyer config`: a configuration file to start from, with every key explained."""

import typer


def config() -> None:
    """Print a configuration file to start from, with every key explained.

    Example: `oyer config > oyer.yaml`
    """
    from oyer.cli.example import example

    typer.echo(example(), nl=False)
