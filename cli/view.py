"""`oyer view`: the web page on the record."""

import contextlib
import os
import socket
from typing import TYPE_CHECKING, Annotated

import typer

from oyer.cli.serve import _listen as listen
from oyer.cli.support import options
from oyer.cli.support.output import console, print_json
from oyer.protocol.errors import InvalidConfig

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from oyer.history.access import AccessRules

Host = Annotated[str, typer.Option("--host", help="Address to bind.")]
Port = Annotated[
    int, typer.Option("--port", min=0, max=65535, help="Port to bind; 0 chooses a free one.")
]
TokenEnv = Annotated[
    str | None,
    typer.Option(
        "--token-env",
        help="Environment variable that holds the token; required unless --host is loopback.",
    ),
]
TrustedHosts = Annotated[
    list[str] | None,
    typer.Option(
        "--trusted-host",
        help="Name under which browsers reach the page, e.g. of a proxy; repeatable.",
    ),
]


def view(
    config: options.Config = None,
    url: options.RecordUrl = None,
    host: Host = "127.0.0.1",
    port: Port = 8790,
    token_env: TokenEnv = None,
    trusted_host: TrustedHosts = None,
    as_json: options.AsJson = False,
) -> None:
    """Serve a web page that explains each score, until Ctrl-C.

    From a run's curves to a step, its groups, and the reason of one reward: each term, each judge's
    reply, request and attempts. People can add verdicts, and export them as labels. The page reads the
    record only; a read-only role is enough, except for verdicts.

    Example: `oyer view --config oyer.yaml`
    """
    check_installed()
    from oyer.cli.support.database import existing
    from oyer.history.access import AccessRules
    from oyer.server.settings import check_bind

    token = _token(token_env)
    check_bind(host, token)
    rules = AccessRules(token=token, hosts=frozenset([host, *(trusted_host or ())]))
    record = options.record_url(config, url)
    with contextlib.closing(listen(host, port)) as listener, existing(record) as engine:
        address = f"http://{host}:{listener.getsockname()[1]}/"
        if as_json:
            print_json({"event": "ready", "url": address})
        else:
            console.print(
                f"the page is at {address}; Ctrl-C stops it", highlight=False, soft_wrap=True
            )
        serve_page(engine, rules, listener)


def serve_page(engine: "Engine", rules: "AccessRules", listener: socket.socket) -> None:
    """Answer requests until a signal."""
    import uvicorn

    from oyer.history.app import create_app

    config = uvicorn.Config(create_app(engine, rules), log_level="warning", access_log=False)
    uvicorn.Server(config).run(sockets=[listener])


def check_installed() -> None:
    """Check that the page's libraries are installed.

    Raises:
        InvalidConfig: names the one that is missing, and how to install it.
    """
    try:
        import jinja2  # noqa: F401
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise InvalidConfig(
            f"`oyer view` needs {error.name}: pip install 'oyer[server]'"
        ) from error


def _token(variable: str | None) -> str | None:
    if variable is None:
        return None
    from oyer.config.variables import secret_of

    return secret_of(
        variable, os.environ, where="--token-env", fix="export the token under that name"
    ).strip()
