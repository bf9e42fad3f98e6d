"""A server that sends arbitrary bytes, for responses that no correct server sends."""

import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

DRIP_PAUSE_S = 0.02
"""Pause between two drips, in seconds."""


class RawServer:
    """Answers every request with the bytes of `answer(request)`.

    Args:
        close: End the connection after a reply.
        drip: Sent again and again after the reply, until the client goes away.
        tls: Speak TLS.
    """

    def __init__(
        self,
        answer: Callable[[bytes], bytes],
        *,
        close: bool = False,
        drip: bytes = b"",
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._answer, self._close, self._drip, self._tls = answer, close, drip, tls
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self._threads: list[threading.Thread] = []
        self._open: set[socket.socket] = set()
        self._ended = threading.Semaphore(0)
        self._stopping = threading.Event()
        self.port: int = self._listener.getsockname()[1]
        self.requests: list[bytes] = []
        self.connections = 0

    def __enter__(self) -> Self:
        self._spawn(self._accept)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stopping.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._open.copy():
            # The connection may have ended by itself.
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)

    def wait_for_end(self) -> None:
        """Wait until one more connection has ended."""
        assert self._ended.acquire(timeout=20)

    def _spawn(self, work: Callable[..., None], *arguments: socket.socket) -> None:
        self._threads.append(threading.Thread(target=work, args=arguments, daemon=True))
        self._threads[-1].start()

    def _accept(self) -> None:
        while not self._stopping.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._spawn(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        try:
            if self._tls:
                connection = self._tls.wrap_socket(connection, server_side=True)
            self._open.add(connection)
            with connection, connection.makefile("rb") as reader:
                while request := _read_request(reader.readline, reader.read):
                    self.requests.append(request)
                    connection.sendall(self._answer(request))
                    while self._drip and not self._stopping.wait(DRIP_PAUSE_S):
                        connection.sendall(self._drip)
                    if self._close:
                        break
        except OSError:
            # The client went away or distrusts the certificate; its side of the test sees that.
            connection.close()
        finally:
            self._open.discard(connection)
            self._ended.release()


def _read_request(readline: Callable[[], bytes], read: Callable[[int], bytes]) -> bytes:
    head, length = b"", 0
    while line := readline():
        head += line
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
        if line == b"\r\n":
            return head + read(length)
    return b""


def ok(body: bytes, *headers: bytes) -> bytes:
    """A 200 with a body of JSON."""
    lines = [b"HTTP/1.1 200 OK", b"Content-Type: application/json", *headers]
    return b"\r\n".join([*lines, b"Content-Length: %d" % len(body), b"", body])
