"""The app of `oyer serve` on a real port, in a thread; plain HTTP requests to it."""

import contextlib
import http.client
import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import uvicorn

from oyer.manager import RewardManager
from oyer.server import ServerSettings, create_app


@dataclass(frozen=True)
class Answer:
    """An HTTP answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """Read the body."""
        return json.loads(self.body)


@dataclass(frozen=True)
class Served:
    """A server on a loopback port."""

    port: int

    def request(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> Answer:
        """Make one request on a new connection; a body other than bytes is sent as JSON."""
        raw = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(connection):
            connection.request(method, path, raw, headers or {})
            response = connection.getresponse()
            shown = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, shown, response.read())

    def post(self, path: str, body: Any, **headers: str) -> Answer:
        """Post a body."""
        return self.request("POST", path, body, headers)

    def get(self, path: str) -> Answer:
        """Get a page."""
        return self.request("GET", path)


@contextlib.contextmanager
def served(manager: RewardManager, **settings: Any) -> Iterator[Served]:
    """Serve until the block ends."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        app = create_app(manager, ServerSettings(**settings))
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield Served(listener.getsockname()[1])
        finally:
            server.should_exit = True
            thread.join()
