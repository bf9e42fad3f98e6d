"""The `oyer` command line, with one module per command.

Commands import heavy modules in their functions, so that `oyer --help` is fast.
"""

import sys
from typing import Annotated

import typer

from oyer.cli import (
    batches,
    check,
    config,
    criteria,
    db,
    demo,
    history,
    length,
    rubric,
    score,
    status,
    up,
    worker,
)
from oyer.cli.serving import metrics, serve, view
from oyer.cli.support.output import fail, print_version
from oyer.local.extras import missing, of_worker
from oyer.protocol.errors import MissingExtra, OyerError

app = typer.Typer(
    name="oyer",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="A reward backend for RL post-training: LLM judges and length penalties score rollouts"
    " off the trainer's critical path, and every score is recorded.\n\n"
    "Start with `oyer demo`; then run `oyer up` next to your trainer, or `oyer worker` on many hosts.",
)
app.command("demo")(demo.demo)
app.command("up", cls=up.UpCommand)(up.up)
app.command("score")(score.score)
app.command("serve")(serve.serve)
app.command("view")(view.view)
app.command("metrics")(metrics.metrics)
app.command("check")(check.check)
app.command("status")(status.status)
app.command("config")(config.config)
app.add_typer(worker.app, name="worker")
app.add_typer(db.app, name="db")
app.add_typer(batches.app, name="batches")
app.add_typer(rubric.app, name="rubric")
app.add_typer(history.app, name="history")
app.add_typer(criteria.app, name="criteria")
app.add_typer(length.app, name="length")


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=print_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Options of `oyer` itself."""


def main() -> None:
    """Run the command line; an `OyerError` is printed on one line, with exit code 1.

    If an extra is not installed, the exit code is 2.
    """
    try:
        app(prog_name="oyer")
    except MissingExtra as error:
        fail(str(error))
        sys.exit(2)
    except ModuleNotFoundError as error:
        module = of_worker(error)
        if module is None:
            raise
        fail(str(missing("this command", module, "worker")))
        sys.exit(2)
    except OyerError as error:
        fail(str(error))
        sys.exit(1)


if __name__ == "__main__":
    main()
