"""`oyer up`: the embedded backend until Ctrl-C."""

import contextlib
import fcntl
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import typer

from oyer.cli.support import options
from oyer.cli.support.output import console, print_json
from oyer.cli.support.signals import stop_event
from oyer.protocol.errors import BackendUnavailable


def up(
    config: options.Config = None,
    judge_processes: Annotated[
        int | None,
        typer.Option(
            "--judge-processes", min=1, help="Number of judge workers; one per core by default."
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object per event.")
    ] = False,
) -> None:
    """Run a whole backend on this machine until Ctrl-C.

    Redis is embedded unless broker.url is set, and the record is SQLite unless store.url is.
    Anything started in the same folder (`oyer score`, `oyer check`, a trainer) finds its broker.

    Example: `oyer up --config oyer.yaml`
    """
    from oyer.config.loading import load_config
    from oyer.local.backend import LOCK_FILE, STATE_FILE
    from oyer.local.supervisor import Supervisor
    from oyer.local.worker_commands import cores

    tell = _teller(as_json)
    stop = stop_event()
    settings = load_config(config)
    folder = STATE_FILE.parent.absolute()
    with _only_one(LOCK_FILE.absolute()):
        supervisor = Supervisor(
            config=settings,
            folder=folder,
            report=lambda part, state: tell(f"{part:<12} {state}", "part", part=part, state=state),
            stopping=stop,
            judge_processes=judge_processes or cores(),
        )
        try:
            supervisor.start()
            if not stop.is_set():
                _leave_state(STATE_FILE, supervisor.config.broker.url)
                where = str(STATE_FILE.absolute())
                tell(f"ready; logs in {folder}; Ctrl-C stops it", "ready", state_file=where)
            supervisor.watch()
            grace = f"running calls have {settings.grace_s:g} s to finish"
            tell(f"stopping: {grace}; press Ctrl-C again to stop now", "stopping")
        finally:
            STATE_FILE.unlink(missing_ok=True)
            supervisor.stop()


def _teller(as_json: bool) -> Callable[..., None]:
    """Print events: a line each, or an object each for a program."""

    def tell(text: str, event: str, **details: str) -> None:
        if as_json:
            print_json({"event": event, **details})
        else:
            console.print(text, highlight=False, markup=False, soft_wrap=True)

    return tell


@contextlib.contextmanager
def _only_one(path: Path) -> Iterator[None]:
    """Hold the folder's lock, which the kernel releases however this process ends."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.open("w")
    except OSError as error:
        raise BackendUnavailable(
            f"{path.parent}: {error.strerror}; start `oyer up` in a folder that you can write to"
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BackendUnavailable(
                f"an `oyer up` already runs in this folder ({path.parent}); stop it, or use another folder"
            ) from error
        yield


def _leave_state(path: Path, broker_url: str | None) -> None:
    """Say where the broker is; the URL may hold a password, so only the owner reads it."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    with open(os.open(path, flags, 0o600), "w") as file:
        json.dump({"broker_url": broker_url, "pid": os.getpid()}, file)
