"""`oyer worker judge|length|combine`: runs workers in production."""

import os
from collections.abc import Sequence
from typing import Annotated, Literal

import typer

from oyer.cli.support import options
from oyer.cli.support.output import console, notes
from oyer.cli.support.signals import stop_event
from oyer.local.extras import WORKER_PACKAGES, require
from oyer.protocol import names
from oyer.protocol.errors import BackendUnavailable

app = typer.Typer(
    no_args_is_help=True,
    help="Run workers of one kind on this host, against the configured broker and store.\n\n"
    "Endpoints and keys are read here, from the workers' own configuration and environment."
    " SIGTERM lets running calls finish; other workers take over what is left.",
)

_BROKER = "OYER_BROKER__URL"
"""Passes the broker's URL to the worker processes."""

Processes = Annotated[
    int,
    typer.Option(
        "--processes", min=1, help="Number of processes, per device if there are several."
    ),
]
LogLevel = Annotated[
    Literal["DEBUG", "INFO", "WARNING", "ERROR"],
    typer.Option("--loglevel", case_sensitive=False, help="Minimum log level."),
]
Kind = Literal["judge", "length", "combine"]


@app.command("judge")
def judge(
    config: options.Config = None,
    concurrency: Annotated[
        int | None,
        typer.Option("--concurrency", min=1, help="Chunks that each process works on at once."),
    ] = None,
    processes: Processes = 1,
    loglevel: LogLevel = "INFO",
    log_format: options.LogFormat = "text",
) -> None:
    """Call the judges for queue `judge`; one process per core is enough.

    Example: `oyer worker judge --config oyer.yaml --processes 4`
    """
    _run(names.JUDGE_QUEUE, config, [None] * processes, loglevel, log_format, concurrency)


@app.command("length")
def length(
    config: options.Config = None,
    device: Annotated[
        str | None,
        typer.Option("--device", help="cuda:N or cpu; defaults to one process per GPU."),
    ] = None,
    processes: Processes = 1,
    loglevel: LogLevel = "INFO",
    log_format: options.LogFormat = "text",
) -> None:
    """Compute length terms on queue `length`, each process on one device.

    Example: `oyer worker length --config oyer.yaml --device cuda:1`
    """
    from oyer.local import worker_commands

    devices = worker_commands.devices() if device is None else [device]
    _run(names.LENGTH_QUEUE, config, devices * processes, loglevel, log_format)


@app.command("combine")
def combine(
    config: options.Config = None,
    processes: Processes = 1,
    loglevel: LogLevel = "INFO",
    log_format: options.LogFormat = "text",
) -> None:
    """Combine judge scores and length terms into rewards, on queue `combine`.

    Example: `oyer worker combine --config oyer.yaml`
    """
    _run(names.COMBINE_QUEUE, config, [None] * processes, loglevel, log_format)


@app.command("alive")
def alive(
    kind: Annotated[Kind, typer.Argument(help="Kind of worker.")],
    config: options.Config = None,
) -> None:
    """Exit 0 if a worker of this kind runs on this host and reaches the broker; for health checks.

    Example: `oyer worker alive judge`
    """
    import socket

    import redis

    from oyer.protocol.measuring import live_workers
    from oyer.protocol.redis_client import connect, unreachable

    with connect(_environment(config)[_BROKER], timeout_s=5) as client:
        try:
            entries = live_workers.workers(client)[kind]
        except redis.RedisError as error:
            raise BackendUnavailable(
                "broker.url: " + unreachable(error, "start it, or name the one that is there")
            ) from error
    here = [entry["pid"] for entry in entries if entry["host"] == socket.gethostname()]
    workers = "worker" if len(here) == 1 else "workers"
    console.print(f"{len(here)} {kind} {workers} on this host")
    if not here:
        raise typer.Exit(1)


def _run(
    kind: str,
    config: options.Config,
    devices: Sequence[str | None],
    loglevel: str,
    log_format: str,
    concurrency: int | None = None,
) -> None:
    """Keep one worker per device running until a signal."""
    require(f"`oyer worker {kind}`", "worker", *WORKER_PACKAGES)
    from oyer.local.processes import Child, keep_alive, stop_all
    from oyer.local.worker_commands import device_environment, worker_argv

    environ = {**_environment(config), options.FORMAT_VARIABLE: log_format}
    children = []
    for i, device in enumerate(devices):
        argv = worker_argv(
            kind, name=f"{kind}-{os.getpid()}-{i}", concurrency=concurrency, loglevel=loglevel
        )
        child_environ = device_environment(device, environ)
        # Not killed from here: a worker ends within `grace_s` of SIGTERM.
        children.append(Child(f"{kind}-{i}", argv, child_environ))
    stop = stop_event()
    for child in children:
        child.start()
    returncode = keep_alive(children, stop, _report)
    stop_all(children, _report)
    if returncode:
        raise typer.Exit(returncode)


def _environment(config: options.Config) -> dict[str, str]:
    """Return the workers' environment, with the configuration file and the broker's URL.

    Raises:
        InvalidConfig: no broker is set, and no `oyer up` runs in this folder.
    """
    from oyer.config.loading import CONFIG_VARIABLE, load_config
    from oyer.local.state import running_broker
    from oyer.local.worker_commands import worker_environment

    environ = worker_environment(os.environ)
    if config is not None:
        environ[CONFIG_VARIABLE] = str(config)
    broker = load_config(config, environ).broker.url
    return {**environ, _BROKER: broker or running_broker()}


def _report(part: str, state: str) -> None:
    notes.print(f"{part} {state}", highlight=False, markup=False)
