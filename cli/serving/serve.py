"""`oyer serve`: rewards over HTTP, for trainers without a Python adapter."""

import contextlib
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from oyer.cli.serving.listening import (
    Host,
    Port,
    TokenEnv,
    address_of,
    http_server,
    listen,
    token_of,
)
from oyer.cli.support.options import AsJson, Config, LogFormat, log_to_stderr
from oyer.cli.support.output import console, print_json
from oyer.local.extras import require
from oyer.protocol.errors import InvalidConfig

if TYPE_CHECKING:
    from oyer.manager import RewardManager
    from oyer.server import ServerSettings

TimeoutS = Annotated[
    float, typer.Option("--timeout-s", min=0.1, help="Maximum time until an answer, in seconds.")
]
LateRetry = Annotated[
    bool,
    typer.Option("--late-retry", help="If a judge is late, answer 503 so that the client retries."),
]
StandIn = Annotated[
    float | None,
    typer.Option(
        "--stand-in",
        help="Number to send for a missing reward if the protocol allows only numbers; by default the"
        " mean of the prompt's rewards.",
    ),
]
Tokenizer = Annotated[
    str | None,
    typer.Option(
        "--tokenizer",
        help="Folder or Hugging Face name of the policy's tokenizer, whose special tokens end a"
        " response; defaults to the configured one, else to the end marks of common models.",
    ),
]
GroupSize = Annotated[
    int | None,
    typer.Option("--group-size", min=1, help="Samples per prompt, if they arrive one by one."),
]
Run = Annotated[
    str | None,
    typer.Option(
        "--run",
        help="Run to record rollouts under, unless a request names one (`?run=NAME`); defaults to"
        " `http`. Servers with the same run share its groups.",
    ),
]
MaxBodyMib = Annotated[
    int, typer.Option("--max-body-mib", min=1, help="Maximum size of a request body, in MiB.")
]
Local = Annotated[bool, typer.Option("--local", help="Start an embedded backend for this server.")]


def serve(
    config: Config = None,
    host: Host = "127.0.0.1",
    port: Port = 8780,
    token_env: TokenEnv = None,
    timeout_s: TimeoutS = 100.0,
    late_retry: LateRetry = False,
    stand_in: StandIn = None,
    group_size: GroupSize = None,
    tokenizer: Tokenizer = None,
    run: Run = None,
    max_body_mib: MaxBodyMib = 64,
    local: Local = False,
    log_format: LogFormat = "text",
    as_json: AsJson = False,
) -> None:
    """Serve rewards over HTTP until Ctrl-C.

    `POST /get_reward` is OpenRLHF's remote reward model, `POST /rm` is slime's, and
    `POST /v1/score` takes a batch of groups. `GET /docs` and `/openapi.json` describe them;
    `GET /healthz` says that the server runs, `GET /readyz` whether batches can be scored. A repeated
    request joins the one in progress, or gets its answer again, without new judge calls. Trainings
    that share a server with `--group-size` each add `?run=NAME` to their URL to keep their groups
    apart.

    Example: `oyer serve --config oyer.yaml --port 8780`
    """
    require("`oyer serve`", "server", "fastapi", "uvicorn")
    from oyer.server import ServerSettings

    log_to_stderr(log_format)
    settings = ServerSettings(
        token=token_of(token_env, host),
        timeout_s=timeout_s,
        on_late="retry" if late_retry else "answer",
        stand_in=stand_in,
        group_size=group_size,
        tokenizer=tokenizer,
        run=run,
        max_body_bytes=max_body_mib * 2**20,
    )
    with contextlib.closing(listen(host, port)) as listener, _manager(config, local) as manager:
        _print_ready(address_of(listener), only_batches(manager, group_size), as_json=as_json)
        _run(manager, settings, listener)


def _run(manager: "RewardManager", settings: "ServerSettings", listener: socket.socket) -> None:
    """Answer requests until a signal."""
    from oyer.server import create_app
    from oyer.tasks.worker.open_files import raise_limit

    # Each request in progress holds a connection.
    raise_limit()
    http_server(create_app(manager, settings)).run(sockets=[listener])


def _print_ready(url: str, note: str | None, *, as_json: bool) -> None:
    if as_json:
        print_json({"event": "ready", "url": url, "note": note})
        return
    console.print(f"serving on {url}; Ctrl-C stops it", highlight=False, soft_wrap=True)
    if note is not None:
        console.print(note, style="yellow", highlight=False, soft_wrap=True)


def only_batches(manager: "RewardManager", group_size: int | None) -> str | None:
    """Return a warning if the configuration makes protocols of single samples refuse every request."""
    from oyer.manager.adapters import check_fits

    routes = {}
    # slime's `remote_rm` does not say which rollouts hit the length limit.
    for route, truncated in (("/get_reward", True), ("/rm", False)):
        try:
            check_fits(
                manager.config,
                who="the client",
                base_score=False,
                group_size=group_size,
                how="--group-size",
                truncated=truncated,
            )
        except InvalidConfig as error:
            routes[route] = str(error)
    if not routes:
        return None
    first = next(iter(routes.values()))
    if len(routes) == 1:
        return f"/rm refuses requests without `truncated` or `finish_reason`: {first}."
    return (
        "Only /v1/score can answer: /get_reward and /rm refuse every request, because the"
        f" configuration needs fields that their protocols do not carry. {first}."
    )


def _manager(config: Path | None, local: bool) -> "RewardManager":
    from oyer.config.loading import load_config
    from oyer.manager import RewardManager

    loaded = load_config(config)
    return RewardManager.local(loaded) if local else RewardManager(loaded)
