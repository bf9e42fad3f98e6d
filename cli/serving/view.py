"""`oyer view`: the web page on the record."""

import contextlib
import io
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from oyer.cli.serving.listening import (
    Host,
    Port,
    TokenEnv,
    address_of,
    http_server,
    listen,
    serving_beside,
    token_of,
)
from oyer.cli.support import options
from oyer.cli.support.output import console, notes, print_json
from oyer.local.extras import WORKER_PACKAGES, require
from oyer.protocol.errors import InvalidInput

TrustedHosts = Annotated[
    list[str] | None,
    typer.Option(
        "--trusted-host",
        help="Name under which browsers reach the page, e.g. of a proxy; repeatable.",
    ),
]
Export = Annotated[
    tuple[str, str] | None,
    typer.Option(
        "--export",
        metavar="RUN[/STEP] FILE",
        help="Write a run or a step as one HTML file, which opens without a server, and end.",
    ),
]

PORT = 8790


def view(
    config: options.Config = None,
    url: options.RecordUrl = None,
    host: Host = "127.0.0.1",
    port: Port = PORT,
    token_env: TokenEnv = None,
    trusted_host: TrustedHosts = None,
    export: Export = None,
    log_format: options.LogFormat = "text",
    as_json: options.AsJson = False,
) -> None:
    """Serve a web page that explains each score, until Ctrl-C.

    From a run's curves to a step, its groups, and the reason of one reward: each term, each judge's
    reply, request and attempts. People can add verdicts, and export them as labels. The page reads the
    record only; a read-only role is enough, except for verdicts.

    Example: `oyer view --config oyer.yaml`
    """
    _require()
    if export is not None:
        _export(options.record_url(config, url), *export, as_json=as_json)
        return
    from oyer.cli.support.database import existing
    from oyer.history.access import AccessRules
    from oyer.history.app import create_app

    options.log_to_stderr(log_format)
    token = token_of(token_env, host)
    rules = AccessRules(token=token, hosts=frozenset([host, *(trusted_host or ())]))
    record = options.record_url(config, url)
    with contextlib.closing(listen(host, port)) as listener, existing(record) as engine:
        address = page_address(listener)
        if as_json:
            print_json({"event": "ready", "url": address})
        else:
            console.print(
                f"the page is at {address}; Ctrl-C stops it", highlight=False, soft_wrap=True
            )
        http_server(create_app(engine, rules)).run(sockets=[listener])


def local_listener() -> socket.socket:
    """Listen on the page's loopback port, or on a free one if that is taken.

    Raises:
        MissingExtra: the page's libraries are not installed.
    """
    _require()
    try:
        return listen("127.0.0.1", PORT)
    except InvalidInput:
        return listen("127.0.0.1", 0)


def page_address(listener: socket.socket) -> str:
    """Return the address that a browser opens."""
    return f"{address_of(listener)}/"


def serve_local(record: str, listener: socket.socket) -> None:
    """Serve the page on this machine until a signal."""
    from oyer.cli.support.database import existing
    from oyer.history.access import AccessRules
    from oyer.history.app import create_app

    with existing(record) as engine:
        http_server(create_app(engine, AccessRules())).run(sockets=[listener])


@contextlib.contextmanager
def served_beside(record: str, listener: socket.socket) -> Iterator[None]:
    """Serve the page on this machine, in a thread, until the block ends."""
    from oyer.cli.support.database import existing
    from oyer.history.access import AccessRules
    from oyer.history.app import create_app

    with (
        existing(record) as engine,
        serving_beside(create_app(engine, AccessRules()), listener),
    ):
        yield


def _export(record: str, place: str, file: str, *, as_json: bool) -> None:
    """Write a run or a step to a file."""
    from oyer.cli.support.database import existing
    from oyer.history.export import MAX_ROLLOUTS, export
    from oyer.history.pages.runs import STEPS_PER_PAGE
    from oyer.models.engine import reading

    with existing(record) as engine, reading(engine) as conn:
        text = io.StringIO()
        rollouts, recorded = export(conn, place, text)
    try:
        # Lone surrogates of a rollout cannot be encoded; browsers show the same mark.
        Path(file).write_bytes(text.getvalue().encode("utf-8", "replace"))
    except OSError as error:
        raise InvalidInput(f"--export {place}: cannot write {file}: {error.strerror}") from error
    if as_json:
        values = {"file": file, "rollouts": rollouts, "recorded": recorded}
        print_json({"event": "exported", **values})
        return
    written = (
        f"{rollouts} rollouts" if rollouts == recorded else f"{rollouts} of {recorded} rollouts"
    )
    console.print(f"wrote {written} to {file}", highlight=False, markup=False, soft_wrap=True)
    if rollouts < recorded:
        notes.print(
            f"a file holds one split of a run, its latest {STEPS_PER_PAGE} steps, and about"
            f" {MAX_ROLLOUTS} rollouts; give RUN/STEP for one step with all splits, or write all rows"
            " with `oyer db export`",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )


def _require() -> None:
    require("`oyer view`", "server", "jinja2", "starlette", "uvicorn", *WORKER_PACKAGES)
