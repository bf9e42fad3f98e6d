"""`oyer up`: runs the embedded backend until Ctrl-C."""

import contextlib
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from oyer.cli.serving.view import local_listener, page_address, served_beside
from oyer.cli.support import options
from oyer.cli.support.output import console, print_json
from oyer.cli.support.signals import stop_event

if TYPE_CHECKING:
    from oyer.local.supervisor import Supervisor


def up(
    config: options.Config = None,
    judge_processes: Annotated[
        int | None,
        typer.Option(
            "--judge-processes", min=1, help="Number of judge workers; defaults to one per core."
        ),
    ] = None,
    view: Annotated[
        bool, typer.Option("--view", help="Also serve the page that explains each score.")
    ] = False,
    log_format: options.LogFormat = "text",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object per event.")
    ] = False,
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
    listener = local_listener() if view else None
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
        _run(supervisor, print_event, listener)


def _run(
    supervisor: "Supervisor", print_event: Callable[..., None], listener: socket.socket | None
) -> None:
    """Run until the supervisor is to stop; its broker's URL is in the state file meanwhile."""
    from oyer.local.state import STATE_FILE, write_state

    page = contextlib.ExitStack()
    try:
        supervisor.start()
        if not supervisor.stopping.is_set():
            write_state(STATE_FILE, supervisor.config.broker.url)
            if listener is not None:
                page.enter_context(served_beside(supervisor.config.store.url, listener))
                address = page_address(listener)
                print_event(f"{'page':<12} {address}", "page", url=address)
            ready = f"ready; logs in {supervisor.folder}; Ctrl-C stops it"
            print_event(ready, "ready", state_file=str(STATE_FILE.absolute()))
        supervisor.watch()
        grace = f"running calls have {supervisor.config.grace_s:g} s to finish"
        print_event(f"stopping: {grace}; press Ctrl-C again to stop now", "stopping")
    finally:
        STATE_FILE.unlink(missing_ok=True)
        page.close()
        supervisor.stop()


def _event_printer(as_json: bool) -> Callable[..., None]:
    """Return a function that prints events, as text or as JSON objects."""

    def print_event(text: str, event: str, **details: str) -> None:
        if as_json:
            print_json({"event": event, **details})
        else:
            console.print(text, highlight=False, markup=False, soft_wrap=True)

    return print_event
