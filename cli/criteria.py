"""`oyer criteria report`: which criteria of a run tell rollouts apart."""

from typing import Annotated

import typer

from oyer.cli.support import options
from oyer.cli.support.batch_ledger import BatchLedger
from oyer.cli.support.output import print_json
from oyer.protocol.errors import InvalidInput

app = typer.Typer(no_args_is_help=True, help="Verdicts on the criteria of judges.")

_MOST = 1000
"""Most criteria that a report lists; rollouts with criteria of their own may bring more."""


@app.callback()
def _group() -> None:
    """Keep `report` a subcommand though it is the only one."""


@app.command("report")
def report(
    run: Annotated[str, typer.Option("--run", help="Name of the run.")],
    split: Annotated[
        str, typer.Option("--split", help="Batches with this split; `train` for those without one.")
    ] = "train",
    batches: Annotated[
        int, typer.Option("--batches", min=1, help="Number of batches to read, from the latest.")
    ] = 1000,
    config: options.Config = None,
    as_json: options.AsJson = False,
) -> None:
    """Print how often each criterion is met, and in which share of groups it decides.

    A criterion decides in a group if its values differ within the group; otherwise it adds the same
    to every reward, which group-relative training (GRPO) cancels. Criteria that decide in no group
    are listed at the end: change or drop them. Groups with fewer than two verdicts are not counted.

    Example: `oyer criteria report --run exp-7`
    """
    from oyer.cli.views import criteria_tables
    from oyer.config.loading import load_config
    from oyer.models.reports.criteria import criteria_report

    found = BatchLedger(load_config(config)).read(
        lambda conn: criteria_report(conn, run, split=split, batches=batches, criteria=_MOST)
    )
    if found is None:
        raise InvalidInput(f"--run: {run!r} is not on record; `oyer batches list` shows the runs")
    if as_json:
        print_json(criteria_tables.as_json(run, split, found))
    else:
        criteria_tables.show(run, split, found)
