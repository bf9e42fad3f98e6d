"""A TCP door in front of a server, which a test shuts in the ways in which networks fail."""

import contextlib
import socket
import struct
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support import services


class Door:
    """Passes connections on to a server of this host while it is open.

    Whatever is shut ends or silences the connections that are there; what they were sent
    meanwhile is lost.
    """

    def __init__(self, target: int | Path, host: str = "127.0.0.1") -> None:
        """Build a door that is shut.

        Args:
            target: the server's port on loopback, or its Unix socket.
            host: the address of this host that the door is at.
        """
        self.host = host
        self.port = services.free_port()
        self._target = target
        self._listener: socket.socket | None = None
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._crowd: list[socket.socket] = []
        self._lock = threading.Lock()
        self._passing = False
        self._resetting = False

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.refuse()

    def open(self) -> None:
        """Pass everything on."""
        self.refuse()
        self._passing = True
        self._listen()

    def refuse(self) -> None:
        """Refuse connections, as a host does whose server is down, and end those that are there."""
        self._passing = self._resetting = False
        if self._listener is not None:
            # Closing alone would leave `accept` waiting in its thread.
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        for crowding in self._crowd:
            crowding.close()
        self._crowd.clear()
        self._end_all()

    def swallow(self) -> None:
        """Accept connections and requests, and never answer."""
        self._passing = False

    def reset(self) -> None:
        """Reset every connection, those to come as well."""
        self._passing, self._resetting = False, True
        self._end_all()

    def drop(self) -> None:
        """Leave attempts to connect without any answer, as a firewall does that drops them.

        Linux drops a SYN when the queue of connections to accept is full.
        """
        with self._lock:
            silenced, self._pairs = self._pairs, []
        self.refuse()
        with self._lock:
            self._pairs = silenced
        self._listener = self._bound(backlog=0)
        while True:
            crowding = socket.socket()
            crowding.settimeout(0.5)
            self._crowd.append(crowding)
            try:
                crowding.connect((self.host, self.port))
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
