"""Options, sockets and servers of the commands that answer HTTP: `oyer serve`, `view`, `metrics`."""

import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from oyer.protocol.errors import InvalidInput

if TYPE_CHECKING:
    import uvicorn

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


def token_of(variable: str | None, host: str) -> str | None:
    """Read the token, which any address but loopback needs.

    Raises:
        InvalidConfig: the variable is not set.
        InvalidInput: the address needs a token, and none is named.
    """
    from oyer.config.variables import secret_of
    from oyer.server.settings import check_bind

    fix = "export the token under that name"
    token = variable and secret_of(variable, os.environ, where="--token-env", fix=fix).strip()
    check_bind(host, token)
    return token


def listen(host: str, port: int, given_as: str | None = None) -> socket.socket:
    """Listen on an address.

    Args:
        given_as: the option that the error names, if it is not `--host` and `--port`.

    Raises:
        InvalidInput: it cannot be bound.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        # Before the address is printed, since a client may connect at once.
        listener.listen()
    except OSError as error:
        listener.close()
        option = given_as or f"--host {host} --port {port}"
        raise InvalidInput(f"{option}: {error.strerror}; choose another") from error
    return listener


def address_of(listener: socket.socket) -> str:
    """Return the URL of a listening socket, without a path."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def http_server(app: Any) -> "uvicorn.Server":
    """Return a server for an ASGI application; its log lines go where the process sends its own."""
    import uvicorn

    config = uvicorn.Config(app, log_config=None, log_level="warning", access_log=False)
    return uvicorn.Server(config)


@contextlib.contextmanager
def serving_beside(app: Any, listener: socket.socket) -> Iterator[None]:
    """Serve an ASGI application in a thread until the block ends."""
    server = http_server(app)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="http")
    thread.start()
    try:
        yield
    finally:
        server.should_exit = True
        thread.join()
