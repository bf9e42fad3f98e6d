"""`oyer serve`: rewards over HTTP, for trainers that can make a request and nothing more."""

import contextlib
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from oyer.cli.support.options import AsJson, Config
from oyer.cli.support.output import console, print_json
from oyer.protocol.errors import InvalidConfig, InvalidInput

if TYPE_CHECKING:
    from oyer.manager import RewardManager


def serve(
    config: Config = None,
    host: Annotated[str, typer.Option("--host", help="Address to bind.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes a free one.")] = (
        8780
    ),
    token_env: Annotated[
        str | None,
        typer.Option(
            "--token-env",
            help="Environment variable that holds the bearer token; needed unless --host is loopback.",
        ),
    ] = None,
    timeout_s: Annotated[
        float,
        typer.Option("--timeout-s", min=0.1, help="Longest time until an answer, in seconds."),
    ] = 100.0,
    late_retry: Annotated[
        bool,
        typer.Option(
            "--late-retry", help="When a judge is late, answer 503 so that the client asks again."
        ),
    ] = False,
    stand_in: Annotated[
        float,
        typer.Option(
            "--stand-in",
            help="Number that is sent in place of a missing reward, where only numbers can be.",
        ),
    ] = 0.0,
    group_size: Annotated[
        int | None,
        typer.Option("--group-size", min=1, help="Samples per prompt that arrive one by one."),
    ] = None,
    run: Annotated[
        str | None,
        typer.Option(
            "--run",
            help="Run to file rollouts under, unless a request names one (`?run=NAME`); `http` when"
            " left out. Servers with the same name gather groups together.",
        ),
    ] = None,
    max_body_mib: Annotated[
        int, typer.Option("--max-body-mib", min=1, help="Largest request body, in MiB.")
    ] = 64,
    local: Annotated[
        bool, typer.Option("--local", help="Start an embedded backend for this server.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Serve rewards over HTTP until Ctrl-C.

    `POST /get_reward` is OpenRLHF's remote reward model, `POST /rm` slime's, and `POST /v1/score`
    takes a batch with groups. `GET /docs` describes them; `GET /healthz` says whether a batch
    could be scored. A request that is sent again joins the one under way. Trainings that share a
    server with `--group-size` each add `?run=NAME` to their URL, which keeps their groups apart.
    could be scored. A request that repeats one still running gets the same answer and costs nothing.

    Example: `oyer serve --config oyer.yaml --port 8780`
    """
    try:
        import uvicorn

        from oyer.server import ServerSettings, create_app
        from oyer.server.settings import check_bind
    except ImportError as error:
        raise InvalidConfig(
            f"`oyer serve` needs {error.name}: pip install 'oyer[server]'"
        ) from error
    from oyer.tasks.worker.open_files import raise_limit

    # Each request under way holds a connection.
    raise_limit()
    token = _token(token_env)
    check_bind(host, token)
    settings = ServerSettings(
        token=token,
        timeout_s=timeout_s,
        on_late="retry" if late_retry else "answer",
        stand_in=stand_in,
        group_size=group_size,
        run=run,
        max_body_bytes=max_body_mib * 2**20,
    )
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(contextlib.closing(_listen(host, port)))
        manager = stack.enter_context(_manager(config, local=local))
        url = f"http://{host}:{listener.getsockname()[1]}"
        note = only_batches(manager, group_size)
        if as_json:
            print_json({"event": "ready", "url": url, "note": note})
        else:
            console.print(f"serving on {url}; Ctrl-C stops it", highlight=False, soft_wrap=True)
            if note is not None:
                console.print(note, style="yellow", highlight=False, soft_wrap=True)
        server = uvicorn.Server(
            uvicorn.Config(create_app(manager, settings), log_level="warning", access_log=False)
        )
        server.run(sockets=[listener])


def only_batches(manager: "RewardManager", group_size: int | None) -> str | None:
    """Say so where the configuration fits `/v1/score` only, before a trainer finds out."""
    from oyer.manager.adapters import check_fits

    try:
        check_fits(
            manager.config,
            who="the client",
            base_score=False,
            group_size=group_size,
            how="--group-size",
        )
    except InvalidConfig as error:
        return (
            "Only /v1/score can answer: /get_reward and /rm will refuse every request, because the"
            f" configuration needs more than they are sent. {error}."
        )
    return None


def _token(variable: str | None) -> str | None:
    if variable is None:
        return None
    from oyer.config.variables import secret_of

    return secret_of(
        variable, os.environ, where="--token-env", fix="export the token under that name"
    ).strip()


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        # Before the line that says so: a client may connect at once.
        listener.listen()
    except OSError as error:
        listener.close()
        raise InvalidInput(
            f"--host {host} --port {port}: {error.strerror}; choose another"
        ) from error
    return listener


def _manager(config: Path | None, *, local: bool) -> "RewardManager":
    from oyer.config.loading import load_config
    from oyer.manager import RewardManager

    loaded = load_config(config)
    return RewardManager.local(loaded) if local else RewardManager(loaded)
