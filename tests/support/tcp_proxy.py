"""A TCP proxy in front of a server, which simulates network faults on request."""

import contextlib
import socket
import struct
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support import services


class TcpProxy:
    """Forwards connections to a server of this host.

    A fault ends or silences the open connections; what is sent to them meanwhile is lost.
    """

    def __init__(self, target: int | Path, host: str = "127.0.0.1") -> None:
        """Build a proxy that does not listen yet.

        Args:
            target: the server's port on loopback, or its Unix socket.
            host: the address of this host that the proxy listens on.
        """
        self.host = host
        self.port = services.free_port()
        self._target = target
        self._listener: socket.socket | None = None
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._queue_fillers: list[socket.socket] = []
        self._lock = threading.Lock()
        self._passing = False
        self._resetting = False

    def __enter__(self) -> Self:
        self.forward()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.refuse()

    def forward(self) -> None:
        """Forward every connection and byte."""
        self.refuse()
        self._passing = True
        self._listen()

    def refuse(self) -> None:
        """Refuse connections, as a host without the server does, and end the open ones."""
        self._passing = self._resetting = False
        if self._listener is not None:
            # Closing alone would leave `accept` waiting in its thread.
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        for filler in self._queue_fillers:
            filler.close()
        self._queue_fillers.clear()
        self._end_all()

    def swallow(self) -> None:
        """Accept connections and requests, and never answer."""
        self._passing = False

    def reset(self) -> None:
        """Reset every connection, including later ones."""
        self._passing, self._resetting = False, True
        self._end_all()

    def drop(self) -> None:
        """Do not answer attempts to connect, as a firewall that drops packets.

        Linux drops a SYN when the queue of connections to accept is full.
        """
        with self._lock:
            silenced, self._pairs = self._pairs, []
        self.refuse()
        with self._lock:
            self._pairs = silenced
        self._listener = self._bound(backlog=0)
        while True:
            filler = socket.socket()
            filler.settimeout(0.5)
            self._queue_fillers.append(filler)
            try:
                filler.connect((self.host, self.port))
            except TimeoutError:
                return

    def _listen(self) -> None:
        self._listener = self._bound(backlog=1024)
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def _bound(self, *, backlog: int) -> socket.socket:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((self.host, self.port))
        listener.listen(backlog)
        return listener

    def _accept(self, listener: socket.socket) -> None:
        # Ends when the listener is closed.
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                if self._resetting:
                    _abort(client)
                    continue
                server = self._connected()
                with self._lock:
                    self._pairs.append((client, server))
                for source, sink in ((client, server), (server, client)):
                    threading.Thread(target=self._relay, args=(source, sink), daemon=True).start()

    def _connected(self) -> socket.socket:
        if isinstance(self._target, int):
            return socket.create_connection(("127.0.0.1", self._target))
        server = socket.socket(socket.AF_UNIX)
        server.connect(str(self._target))
        return server

    def _relay(self, source: socket.socket, sink: socket.socket) -> None:
        # An end that was closed or reset is the other side's to notice.
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if self._passing:
                    sink.sendall(data)
            if self._passing:
                sink.shutdown(socket.SHUT_WR)

    def _end_all(self) -> None:
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for client, server in pairs:
            _abort(client)
            _abort(server)


def _abort(end: socket.socket) -> None:
    """Close with a RST; `shutdown` first wakes the thread that reads from it."""
    with contextlib.suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        end.shutdown(socket.SHUT_RD)
    end.close()
