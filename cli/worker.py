"""`oyer worker judge|length|combine`: what production runs on each host."""

import os
import signal
import sys
import tempfile
import threading
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from oyer.cli.output import notes
from oyer.tasks import commands, names
from oyer.tasks.children import Child
from oyer.tasks.settings import CONFIG_VARIABLE, load_config

app = typer.Typer(
    no_args_is_help=True,
    help="Run workers of one kind on this host, against the configured broker and store.\n\n"
    "Endpoints and keys are read here, from the workers' own configuration and environment.",
)

Config = Annotated[
    Path | None,
    typer.Option("--config", help="Configuration file; OYER_CONFIG names it as well."),
]
Concurrency = Annotated[
    int | None, typer.Option("--concurrency", min=1, help="Tasks under way at once per process.")
]
Processes = Annotated[int, typer.Option("--processes", min=1, help="Worker processes to run.")]
LogLevel = Annotated[str, typer.Option("--loglevel", help="DEBUG, INFO, WARNING or ERROR.")]


@app.command("judge")
def judge(
    config: Config = None,
    concurrency: Concurrency = None,
    processes: Processes = 1,
    loglevel: LogLevel = "INFO",
) -> None:
    """Call the judges: greenlets on queue `judge`; one process per core is plenty."""
    _run(names.JUDGE_QUEUE, config, concurrency, processes, None, loglevel)


@app.command("length")
def length(
    config: Config = None,
    device: Annotated[
        str | None,
        typer.Option("--device", help="cuda:N pins one GPU, cpu none; run one process per GPU."),
    ] = None,
    loglevel: LogLevel = "INFO",
) -> None:
    """Compute length terms: one process per device on queue `length`."""
    _run(names.LENGTH_QUEUE, config, None, 1, device, loglevel)


@app.command("combine")
def combine(config: Config = None, processes: Processes = 1, loglevel: LogLevel = "INFO") -> None:
    """Combine verdicts and length terms into rewards, on queue `combine`."""
    _run(names.COMBINE_QUEUE, config, None, processes, None, loglevel)


def _run(
    kind: str,
    config: Path | None,
    concurrency: int | None,
    processes: int,
    device: str | None,
    loglevel: str,
) -> None:
    """Become the worker, or watch over several."""
    environ = commands.device_environment(device, os.environ)
    if config is not None:
        environ[CONFIG_VARIABLE] = str(config)
    load_config(config, environ)
    argvs = [
        commands.worker_argv(
            kind,
            name=f"{kind}-{os.getpid()}-{i}",
            concurrency=concurrency,
            loglevel=loglevel.upper(),
        )
        for i in range(processes)
    ]
    if processes == 1:
        os.execve(sys.executable, argvs[0], environ)
    sys.exit(_watch(kind, argvs, environ))


def _watch(kind: str, argvs: list[list[str]], environ: dict[str, str]) -> int:
    """Run several processes until one of them fails or this one is asked to stop."""
    stop = threading.Event()

    def ask(number: int, frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, ask)
    signal.signal(signal.SIGINT, ask)
    with tempfile.TemporaryDirectory(prefix=f"oyer-{kind}-") as folder:
        children = [
            Child(f"{kind}-{i}", argv, environ, Path(folder)) for i, argv in enumerate(argvs)
        ]
        for child in children:
            child.start()
        while not stop.wait(0.5):
            ended = [child for child in children if child.ended()]
            for child in ended:
                notes.print(f"{child.name} ended with {child.returncode}: {child.tail()}")
            if ended:
                break
        for child in children:
            child.ask_to_stop()
        for child in children:
            child.wait_stopped()
        return 0 if stop.is_set() else 1
