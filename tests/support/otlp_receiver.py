"""A receiver of OTLP over HTTP (OpenTelemetry Protocol 1.x), decoded with `opentelemetry-proto`."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

WAIT_S = 60.0


@dataclass(frozen=True)
class ReceivedSpan:
    """One span as it arrived; ids in hexadecimal."""

    name: str
    kind: int
    service: str
    trace_id: str
    span_id: str
    parent_id: str
    links: list[str]
    attributes: dict[str, Any]
    events: list[tuple[str, dict[str, Any]]]
    failed: bool
    began_ns: int
    ended_ns: int


class Receiver:
    """Collects spans; `wait_for` waits until some have arrived."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.raw = b""
        """All bodies as they arrived."""
        self._spans: list[ReceivedSpan] = []
        self._arrived = threading.Condition()

    def add(self, body: bytes) -> None:
        """Decode a request."""
        request = ExportTraceServiceRequest.FromString(body)
        with self._arrived:
            self.raw += body
            for of_resource in request.resource_spans:
                service = _values(of_resource.resource.attributes)["service.name"]
                for scope in of_resource.scope_spans:
                    self._spans += [_span(one, service) for one in scope.spans]
            self._arrived.notify_all()

    def wait_for(
        self, batch_id: str, complete: Callable[[list[ReceivedSpan]], bool]
    ) -> list[ReceivedSpan]:
        """Wait until the traces of a batch are complete, and return their spans."""
        with self._arrived:
            assert self._arrived.wait_for(lambda: complete(self._of(batch_id)), WAIT_S), [
                (one.name, one.attributes) for one in self._of(batch_id)
            ]
            return self._of(batch_id)

    def _of(self, batch_id: str) -> list[ReceivedSpan]:
        traces = {
            one.trace_id for one in self._spans if one.attributes.get("oyer.batch_id") == batch_id
        }
        return [one for one in self._spans if one.trace_id in traces]


@contextlib.contextmanager
def otlp_receiver() -> Iterator[Receiver]:
    """Run a receiver on a free port of loopback."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            receiver.add(self.rfile.read(int(self.headers["Content-Length"])))
            body = ExportTraceServiceResponse().SerializeToString()
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Log nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        receiver = Receiver(f"http://127.0.0.1:{server.server_address[1]}")
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield receiver
        finally:
            server.shutdown()
            thread.join()


def _span(one: Any, service: str) -> ReceivedSpan:
    return ReceivedSpan(
        name=one.name,
        kind=one.kind,
        service=service,
        trace_id=one.trace_id.hex(),
        span_id=one.span_id.hex(),
        parent_id=one.parent_span_id.hex(),
        links=[link.span_id.hex() for link in one.links],
        attributes=_values(one.attributes),
        events=[(event.name, _values(event.attributes)) for event in one.events],
        failed=one.status.code == 2,
        began_ns=one.start_time_unix_nano,
        ended_ns=one.end_time_unix_nano,
    )


def _values(attributes: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in attributes}
