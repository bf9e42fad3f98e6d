"""`oyer metrics`: the exporter for Prometheus."""

import contextlib
import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING

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
from oyer.cli.support.output import console, print_json
from oyer.local.extras import WORKER_PACKAGES, require

if TYPE_CHECKING:
    from redis import Redis
    from sqlalchemy import Engine

    from oyer.config.reward import RewardConfig

PORT = 9790


def metrics(
    config: options.Config = None,
    url: options.RecordUrl = None,
    host: Host = "127.0.0.1",
    port: Port = PORT,
    token_env: TokenEnv = None,
    log_format: options.LogFormat = "text",
    as_json: options.AsJson = False,
) -> None:
    """Serve metrics for Prometheus at `/metrics`, until Ctrl-C.

    Each scrape reads the broker and the record; a read-only role of the record is enough. `/healthz` says
    that the exporter runs, `/readyz` whether broker and record can be used. docs/metrics.md lists the
    metrics; `deploy/` has alert rules and a Grafana board.

    Example: `oyer metrics --config oyer.yaml`
    """
    _require()
    from oyer.config.loading import load_config
    from oyer.metrics.app import create_app

    options.log_to_stderr(log_format)
    token = token_of(token_env, host)
    settings = load_config(config)
    with contextlib.closing(listen(host, port)) as listener, _opened(settings, url) as parts:
        app = create_app(*parts, settings, token)
        address = metrics_address(listener)
        if as_json:
            print_json({"event": "ready", "url": address})
        else:
            console.print(f"metrics at {address}; Ctrl-C stops it", highlight=False, soft_wrap=True)
        http_server(app).run(sockets=[listener])


def local_listener(port: int) -> socket.socket:
    """Listen on a loopback port for `oyer up --metrics`.

    Raises:
        MissingExtra: the exporter's libraries are not installed.
        InvalidInput: it cannot listen on the port.
    """
    _require()
    return listen("127.0.0.1", port, given_as=f"--metrics {port}")


def metrics_address(listener: socket.socket) -> str:
    """Return the address that Prometheus scrapes."""
    return f"{address_of(listener)}/metrics"


@contextlib.contextmanager
def served_beside(settings: "RewardConfig", listener: socket.socket) -> Iterator[None]:
    """Serve the metrics of a running backend on this machine, in a thread, until the block ends."""
    from oyer.metrics.app import create_app

    with _opened(settings, None) as parts, serving_beside(create_app(*parts, settings), listener):
        yield


def _require() -> None:
    packages = ("prometheus_client", "starlette", "uvicorn", *WORKER_PACKAGES)
    require("`oyer metrics`", "server", *packages)


@contextlib.contextmanager
def _opened(settings: "RewardConfig", url: str | None) -> "Iterator[tuple[Redis, Engine]]":
    """Open the broker and the record; neither needs to answer yet."""
    from oyer.cli.support.database import explained
    from oyer.local.state import running_broker
    from oyer.models.engine import open_engine
    from oyer.protocol.redis_client import connect
    from oyer.tasks.monitoring.readiness import TIMEOUT_S

    store = url or settings.store.url
    with explained(store):
        engine = open_engine(store)
    broker = settings.broker.url or running_broker()
    try:
        with connect(broker, timeout_s=TIMEOUT_S) as client:
            yield client, engine
    finally:
        engine.dispose()
