"""The judge server on an event loop: an asyncio protocol that answers by plan, and its log.

It uses asyncio protocols instead of a web framework to leave the CPU to the workers under test.
"""

import asyncio
import hashlib
import json
import re
import socket
import struct
import threading
import time
from collections.abc import Callable
from functools import lru_cache
from typing import IO, Any, cast

from oyer.demo.http import Request, RequestReader
from oyer.demo.replies import Reply, error_reply, json_reply, reply_to
from oyer.demo.request_log import RequestEntry
from oyer.demo.responses import Action
from oyer.demo.scenarios import Plan, plan_from_json
from oyer.protocol.errors import InvalidInput

PlanSource = Plan | Action | dict[str, Any]
"""A callable, one action for every request, or a plan in JSON."""

MODELS = {"object": "list", "data": [{"id": "demo-judge", "object": "model", "owned_by": "oyer"}]}

_MODEL = re.compile(rb'"model"\s*:\s*"([^"\\]*)"')
"""Finds the key without parsing the body; inside a JSON string its quotes are escaped."""
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
"""SO_LINGER with 0 seconds: closing sends RST instead of FIN."""


class ChatEndpoint:
    """The plan, the log and the open connections.

    All methods run on one event loop; other threads read `arrivals` while they hold `changed`.
    """

    def __init__(
        self,
        plan: PlanSource,
        *,
        default: Action | None = None,
        body_limit_bytes: int = 2**20,
        log_file: IO[str] | None = None,
    ) -> None:
        self.arrivals: list[RequestEntry] = []
        self.changed = threading.Condition()
        """Notified when a request arrives and when it ends."""
        self.connections: set[ChatConnection] = set()
        self.held: dict[ChatConnection, Callable[[], None]] = {}
        """Replies that an action holds back until `release`."""
        self.receive_buffer = bytearray(2**16)
        """Shared by all connections and copied after each read: a new buffer per read, as in
        `asyncio.Protocol`, doubled the CPU time per request (0.10 ms instead of 0.05 ms)."""
        self._default = default
        self._body_limit_bytes = body_limit_bytes
        self._log_file = log_file
        self._in_flight = 0
        self.install(plan)

    def install(self, source: PlanSource) -> None:
        """Use this plan for later requests; its clock and counters start now."""
        self._plan = _plan_of(source, self._default)
        self._source = source
        self._plan_began_s = time.monotonic()

    def reset(self) -> None:
        """Clear the log and restart the plan; requests in progress continue."""
        with self.changed:
            self.arrivals.clear()
        self.install(self._source)

    def release(self) -> None:
        """Answer the requests that an action holds."""
        held, self.held = self.held, {}
        for proceed in held.values():
            proceed()

    def arrive(self, request: Request) -> RequestEntry:
        """Add a request to the log."""
        self._in_flight += 1
        now_s = time.monotonic()
        authorization = request.headers.get("authorization")
        model = _MODEL.search(request.body)
        arrival = RequestEntry(
            sequence=len(self.arrivals),
            arrived_at_s=now_s,
            arrived_wall_s=time.time(),
            since_plan_s=now_s - self._plan_began_s,
            method=request.method,
            path=request.path,
            header_names=list(request.headers),
            authorization_sha256=None if authorization is None else _sha256(authorization),
            body=request.body,
            body_sha256=hashlib.sha256(request.body).hexdigest(),
            model=model and model[1].decode("utf-8", "replace"),
            in_flight=self._in_flight,
        )
        with self.changed:
            self.arrivals.append(arrival)
            self.changed.notify_all()
        return arrival

    def decide(self, arrival: RequestEntry) -> Action:
        """Choose an action by the plan."""
        action = self._plan(arrival)
        arrival.action = action.name
        return action

    def finish(self, arrival: RequestEntry) -> None:
        """Mark a request as ended, answered or not."""
        self._in_flight -= 1
        arrival.finished_at_s = time.monotonic()
        if len(arrival.body or b"") > self._body_limit_bytes:
            arrival.body = None
        if self._log_file is not None:
            self._log_file.write(json.dumps(arrival.record()) + "\n")
        with self.changed:
            self.changed.notify_all()

    def control(self, request: Request) -> Reply:
        """Execute a request to `/control/…`."""
        match request.method, request.path:
            case "GET", "/control/log":
                return json_reply({"arrivals": [arrival.record() for arrival in self.arrivals]})
            case "POST", "/control/plan":
                try:
                    self.install(json.loads(request.body))
                except ValueError as error:
                    return json_reply({"error": str(error)}, 400)
            case "POST", "/control/reset":
                self.reset()
            case "POST", "/control/release":
                self.release()
            case _:
                return json_reply({"error": "GET log, or POST plan, reset or release"}, 404)
        return json_reply({"ok": True})


class ChatConnection(asyncio.BufferedProtocol):
    """A client connection; it serves one request at a time, so that replies are in order."""

    def __init__(self, endpoint: ChatEndpoint) -> None:
        self._endpoint = endpoint
        self._loop = asyncio.get_running_loop()
        self._reader = RequestReader()
        self._transport: asyncio.Transport
        self._arrival: RequestEntry | None = None
        self._keep_alive = True
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # A transport of uvloop is not a subclass of asyncio.Transport.
        self._transport = cast(asyncio.Transport, transport)
        self._endpoint.connections.add(self)

    def connection_lost(self, _: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._endpoint.held.pop(self, None)
        self._endpoint.connections.discard(self)
        if self._arrival is not None:
            self._endpoint.finish(self._arrival)
            self._arrival = None

    def get_buffer(self, _: int) -> bytearray:
        return self._endpoint.receive_buffer

    def buffer_updated(self, received_bytes: int) -> None:
        self._reader.feed(bytes(memoryview(self._endpoint.receive_buffer)[:received_bytes]))
        self._serve_next()

    def abort(self) -> None:
        """End the connection with an RST."""
        self._transport.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE
        )
        self._transport.abort()

    def _serve_next(self) -> None:
        if self._arrival is not None or self._transport.is_closing():
            return
        try:
            request = self._reader.next_request()
        except InvalidInput as error:
            self._transport.write(json_reply({"error": str(error)}, 400).payload)
            self._transport.close()
            return
        if request is not None:
            self._keep_alive = request.keep_alive
            self._serve(request)

    def _serve(self, request: Request) -> None:
        path = request.path.partition("?")[0]
        if path.startswith("/control/"):
            self._send(self._endpoint.control(request))
            return
        self._arrival = arrival = self._endpoint.arrive(request)
        if request.method == "POST" and path.endswith("/chat/completions"):
            self._act(arrival, self._endpoint.decide(arrival))
        elif request.method == "GET" and path.endswith("/models"):
            self._send(json_reply(MODELS))
        else:
            self._send(error_reply(arrival, 404, f"No such route: {request.method} {path}"))

    def _act(self, arrival: RequestEntry, action: Action) -> None:
        def proceed() -> None:
            reply = reply_to(arrival, action)
            if action.fault == "drip":
                self._drip(reply, action, 0)
            elif reply.ending != "never":
                self._send(reply)

        def hold() -> None:
            self._endpoint.held[self] = proceed

        latency_s = action.latency_s() if callable(action.latency_s) else action.latency_s
        begin = hold if action.hold else proceed
        if latency_s > 0:
            self._timer = self._loop.call_later(latency_s, begin)
        else:
            begin()

    def _drip(self, reply: Reply, action: Action, sent: int) -> None:
        end = sent + action.drip_bytes
        if end >= len(reply.payload):
            self._send(reply, sent)
            return
        self._transport.write(reply.payload[sent:end])
        self._timer = self._loop.call_later(action.drip_pause_s, self._drip, reply, action, end)

    def _send(self, reply: Reply, start: int = 0) -> None:
        """Write a reply from an offset, end the request and, if the reply says so, the connection."""
        # Logged first, so that a client that has its reply finds it in the log.
        if self._arrival is not None:
            self._arrival.status = reply.status
            self._arrival.prompt_tokens = reply.prompt_tokens
            self._arrival.completion_tokens = reply.completion_tokens
            self._endpoint.finish(self._arrival)
            self._arrival = None
        if reply.payload:
            self._transport.write(reply.payload[start:])
        if reply.ending == "reset":
            self.abort()
        elif reply.ending == "close" or not self._keep_alive:
            self._transport.close()
        elif self._reader.buffered:
            self._loop.call_soon(self._serve_next)


def _plan_of(source: PlanSource, default: Action | None) -> Plan:
    if isinstance(source, Action):
        return lambda _: source
    return source if callable(source) else plan_from_json(source, default)


@lru_cache(maxsize=64)
def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


async def listen(endpoint: ChatEndpoint, host: str, port: int) -> asyncio.Server:
    """Accept connections; the backlog fits all clients of a benchmark at once."""
    loop = asyncio.get_running_loop()
    return await loop.create_server(lambda: ChatConnection(endpoint), host, port, backlog=4096)


async def shut_down(server: asyncio.Server, endpoint: ChatEndpoint) -> None:
    """Stop accepting connections and end the open ones."""
    server.close()
    while endpoint.connections:
        for connection in endpoint.connections:
            connection.abort()
        # The transports close their sockets in later iterations of the loop.
        await asyncio.sleep(0)
