"""`oyer up`: runs the embedded backend until Ctrl-C."""

import contextlib
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer
from typer.core import TyperCommand

from oyer.cli.serving import metrics as exporter
from oyer.cli.serving import view as page
from oyer.cli.support import options
from oyer.cli.support.output import console, print_json
from oyer.cli.support.signals import stop_event

if TYPE_CHECKING:
    from oyer.local.supervisor import Supervisor


JudgeProcesses = Annotated[
    int | None,
    typer.Option(
        "--judge-processes", min=1, help="Number of judge workers; defaults to one per core."
    ),
]
View = Annotated[bool, typer.Option("--view", help="Also serve the page that explains each score.")]
Metrics = Annotated[
    int | None,
    typer.Option(
        "--metrics",
        min=0,
        max=65535,
        metavar="[PORT]",
        help=f"Also serve metrics for Prometheus, on port {exporter.PORT} unless given; 0 chooses a"
        " free one.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object per event.")]


class UpCommand(TyperCommand):
    """Takes `--metrics` without a port too, which Typer's options do not."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments after the default port is added."""
        if "--metrics" in args:
            end = args.index("--metrics") + 1
            if all(following.startswith("-") for following in args[end : end + 1]):
                args = [*args[:end], str(exporter.PORT), *args[end:]]
        return super().parse_args(ctx, args)


def up(
    config: options.Config = None,
    judge_processes: JudgeProcesses = None,
    view: View = False,
    metrics: Metrics = None,
    log_format: options.LogFormat = "text",
    as_json: AsJson = False,
) -> None:
    """Run a complete backend on this machine until Ctrl-C.

    Redis is embedded unless broker.url is set, and the record is SQLite unless store.url is set.
    Programs started in the same folder (`oyer score`, `oyer check`, a trainer) find its broker.

    Example: `oyer up --config oyer.yaml`
    """
    from oyer.config.loading import load_config
    from oyer.local.state import LOCK_FILE, STATE_FILE, folder_lock
    from oyer.local.supervisor import Supervisor
    from oyer.local.worker_commands import cores

    options.log_to_stderr(log_format)
    beside = _Beside(
        page=page.local_listener() if view else None,
        metrics=None if metrics is None else exporter.local_listener(metrics),
    )
    print_event, stopping = _event_printer(as_json), stop_event()
    settings = load_config(config)
    with folder_lock(LOCK_FILE.absolute()):
        supervisor = Supervisor(
            config=settings,
            folder=STATE_FILE.parent.absolute(),
            report=lambda part, state: print_event(
                f"{part:<12} {state}", "part", part=part, state=state
            ),
            stopping=stopping,
            judge_processes=judge_processes or cores(),
        )
        _run(supervisor, print_event, beside)


class _Beside(NamedTuple):
    """Sockets of what is served beside the backend, if it is."""

    page: socket.socket | None
    metrics: socket.socket | None


def _run(supervisor: "Supervisor", print_event: Callable[..., None], beside: _Beside) -> None:
    """Run until the supervisor is to stop; its broker's URL is in the state file meanwhile."""
    from oyer.local.state import STATE_FILE, write_state

    served = contextlib.ExitStack()
    try:
        supervisor.start()
        config = supervisor.config
        if not supervisor.stopping.is_set():
            write_state(STATE_FILE, config.broker.url)
            if beside.page is not None:
                served.enter_context(page.served_beside(config.store.url, beside.page))
                address = page.page_address(beside.page)
                print_event(f"{'page':<12} {address}", "page", url=address)
            if beside.metrics is not None:
                served.enter_context(exporter.served_beside(config, beside.metrics))
                address = exporter.metrics_address(beside.metrics)
                print_event(f"{'metrics':<12} {address}", "metrics", url=address)
            ready = f"ready; logs in {supervisor.folder}; Ctrl-C stops it"
            print_event(ready, "ready", state_file=str(STATE_FILE.absolute()))
        supervisor.watch()
        grace = f"running calls have {config.grace_s:g} s to finish"
        print_event(f"stopping: {grace}; press Ctrl-C again to stop now", "stopping")
    finally:
        STATE_FILE.unlink(missing_ok=True)
        served.close()
        supervisor.stop()


def _event_printer(as_json: bool) -> Callable[..., None]:
    """Return a function that prints events, as text or as JSON objects."""

    def print_event(text: str, event: str, **details: str) -> None:
        if as_json:
            print_json({"event": event, **details})
        else:
            console.print(text, highlight=False, markup=False, soft_wrap=True)

    return print_event
