"""`oyer up`: the embedded backend until Ctrl-C."""

import json
import os
import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from oyer.cli.output import console, print_json
from oyer.manager.local import STATE_FILE
from oyer.tasks.settings import load_config
from oyer.tasks.supervisor import Supervisor


def up(
    config: Annotated[Path | None, typer.Option("--config", help="Configuration file.")] = None,
    judge_processes: Annotated[
        int | None, typer.Option("--judge-processes", min=1, help="One per core by default.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per event.")] = False,
) -> None:
    """Run a whole backend on this machine until Ctrl-C.

    Redis is embedded unless broker.url is set, and the record is SQLite unless store.url is.
    Managers started in this folder find the embedded broker by themselves.
    """

    def report(part: str, state: str) -> None:
        if as_json:
            print_json({"event": "part", "part": part, "state": state})
        else:
            console.print(f"[bold]{part:<12}[/] {state}", highlight=False)

    stop = threading.Event()

    def ask(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise SystemExit(1)
        stop.set()

    signal.signal(signal.SIGINT, ask)
    signal.signal(signal.SIGTERM, ask)
    folder = STATE_FILE.parent
    folder.mkdir(parents=True, exist_ok=True)
    options = {} if judge_processes is None else {"judge_processes": judge_processes}
    supervisor = Supervisor(config=load_config(config), folder=folder, report=report, **options)
    try:
        supervisor.start()
        _leave_state(supervisor)
        if as_json:
            print_json({"event": "ready", "broker": supervisor.config.broker.url})
        else:
            console.print(f"ready; logs in {folder.absolute()}; Ctrl-C stops it")
        supervisor.watch(stop)
    finally:
        supervisor.stop()
        STATE_FILE.unlink(missing_ok=True)


def _leave_state(supervisor: Supervisor) -> None:
    """Say where the broker is; the URL may hold a password, so only the owner reads it."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    with open(os.open(STATE_FILE, flags, 0o600), "w") as file:
        json.dump({"broker_url": supervisor.config.broker.url, "pid": os.getpid()}, file)
