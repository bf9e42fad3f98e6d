"""`oyer up`: runs the embedded backend until Ctrl-C."""

from collections.abc import Callable
from typing import Annotated

import typer

from oyer.cli.support import options
from oyer.cli.support.output import console, print_json
from oyer.cli.support.signals import stop_event


def up(
    config: options.Config = None,
    judge_processes: Annotated[
        int | None,
        typer.Option(
            "--judge-processes", min=1, help="Number of judge workers; defaults to one per core."
        ),
    ] = None,
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
    from oyer.local.state import LOCK_FILE, STATE_FILE, folder_lock, write_state
    from oyer.local.supervisor import Supervisor
    from oyer.local.worker_commands import cores

    print_event = _event_printer(as_json)
    stop = stop_event()
    settings = load_config(config)
    folder = STATE_FILE.parent.absolute()
    with folder_lock(LOCK_FILE.absolute()):
        supervisor = Supervisor(
            config=settings,
            folder=folder,
            report=lambda part, state: print_event(
                f"{part:<12} {state}", "part", part=part, state=state
            ),
            stopping=stop,
            judge_processes=judge_processes or cores(),
        )
        try:
            supervisor.start()
            if not stop.is_set():
                write_state(STATE_FILE, supervisor.config.broker.url)
                where = str(STATE_FILE.absolute())
                print_event(f"ready; logs in {folder}; Ctrl-C stops it", "ready", state_file=where)
            supervisor.watch()
            grace = f"running calls have {settings.grace_s:g} s to finish"
            print_event(f"stopping: {grace}; press Ctrl-C again to stop now", "stopping")
        finally:
            STATE_FILE.unlink(missing_ok=True)
            supervisor.stop()


def _event_printer(as_json: bool) -> Callable[..., None]:
    """Return a function that prints events, as text or as JSON objects."""

    def print_event(text: str, event: str, **details: str) -> None:
        if as_json:
            print_json({"event": event, **details})
        else:
            console.print(text, highlight=False, markup=False, soft_wrap=True)

    return print_event
