"""A TLS proxy in front of a server without TLS, as stunnel or a sidecar."""

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

from tests.support.certificates import Identity

_SSL_REQUEST = bytes.fromhex("0000000804d2162f")
"""SSLRequest: what a PostgreSQL client sends before TLS (PostgreSQL manual, 54.2.10)."""


class Tunnel:
    """Accepts TLS connections on loopback and forwards their content to a server."""

    def __init__(self, target: tuple[str, int] | Path, identity: Identity) -> None:
        self._target = target
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(identity.cert, identity.key)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=200)
        self.port: int = self._listener.getsockname()[1]
        self.opened = 0
        """Connections whose handshake succeeded."""
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Stop accepting connections."""
        # `close` alone would leave `accept` waiting.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, plain: socket.socket) -> None:
        # A client that refuses the certificate, or goes, ends its own connection only.
        with contextlib.suppress(OSError), plain, self._connect() as server:
            if isinstance(self._target, Path):
                assert plain.recv(8, socket.MSG_WAITALL) == _SSL_REQUEST
                plain.sendall(b"S")
            with self._context.wrap_socket(plain, server_side=True) as client:
                self.opened += 1
                answers = threading.Thread(target=_pump, args=(server, client), daemon=True)
                answers.start()
                _pump(client, server)
                answers.join()

    def _connect(self) -> socket.socket:
        if isinstance(self._target, Path):
            server = socket.socket(socket.AF_UNIX)
            server.connect(str(self._target))
            return server
        return socket.create_connection(self._target)


def _pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def tunnel(target: tuple[str, int] | Path, identity: Identity) -> Iterator[Tunnel]:
    """Run a tunnel until the block ends."""
    opened = Tunnel(target, identity)
    try:
        yield opened
    finally:
        opened.close()
