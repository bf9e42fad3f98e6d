"""TLS of the judge's connections: the trusted authorities, and TLS inside a TLS connection."""

import os
import socket
import ssl
from collections.abc import Callable, Mapping
from typing import TypeVar

import httpx2

from oyer.protocol.errors import InvalidConfig

_T = TypeVar("_T")
_CHUNK_BYTES = 65_536


def ssl_context(environ: Mapping[str, str]) -> ssl.SSLContext:
    """Trust the authorities that `environ` names, or else the system's.

    Raises:
        InvalidConfig: a named file or folder cannot be read.
    """
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE"):
        path = environ.get(name)
        if not path:
            continue
        try:
            if os.path.isdir(path):
                return ssl.create_default_context(capath=path)
            return ssl.create_default_context(cafile=path)
        except OSError as error:
            raise InvalidConfig(
                f"{name}={path!r} holds no readable certificates ({error}): correct or unset it"
            ) from error
    return httpx2.create_ssl_context(trust_env=False)


class NestedTls:
    """TLS to a server through the TLS connection of an https:// proxy.

    `SSLContext.wrap_socket` cannot wrap an `SSLSocket`: it would write to the file descriptor.
    """

    def __init__(self, outer: socket.socket, context: ssl.SSLContext, hostname: str) -> None:
        self._outer = outer
        self._received, self._to_send = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._received, self._to_send, server_hostname=hostname)
        self._run(self._tls.do_handshake)

    def fileno(self) -> int:
        """Return the file descriptor of the outer connection."""
        return self._outer.fileno()

    def settimeout(self, timeout_s: float | None) -> None:
        """Limit each read and write of the outer connection."""
        self._outer.settimeout(timeout_s)

    def sendall(self, data: bytes) -> None:
        """Encrypt and send `data`."""
        self._run(lambda: self._tls.write(data))

    def recv(self, size: int) -> bytes:
        """Return at most `size` bytes; none at the end."""
        try:
            return self._run(lambda: self._tls.read(size))
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            return b""

    def close(self) -> None:
        """Close the outer connection."""
        self._outer.close()

    def _run(self, step: Callable[[], _T]) -> _T:
        while True:
            try:
                result = step()
            except ssl.SSLWantReadError:
                self._flush()
                data = self._outer.recv(_CHUNK_BYTES)
                if data:
                    self._received.write(data)
                else:
                    self._received.write_eof()
                continue
            self._flush()
            return result

    def _flush(self) -> None:
        if data := self._to_send.read():
            self._outer.sendall(data)
