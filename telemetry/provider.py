"""The tracer provider of a process; importing this module loads OpenTelemetry."""

import atexit
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

FLUSH_S = 2.0
"""Longest time that the end of a process waits for its last spans, in seconds."""

_QUEUE = 16_384
"""Spans that may wait for the exporter; a chunk's attempts come all at once."""


class _Processor(BatchSpanProcessor):
    """Exports in a thread of its own; ends within `FLUSH_S`, where the SDK waits for 30 s."""

    def shutdown(self) -> None:
        """Export what is waiting, unless the collector takes too long."""
        self._batch_processor.shutdown(timeout_millis=int(FLUSH_S * 1000))


def tracer(service: str) -> tuple[trace.Tracer, TracerProvider | None]:
    """Return a tracer of the program's provider, or of a new one, which is returned as well."""
    given = trace.get_tracer_provider()
    if isinstance(given, TracerProvider):
        return given.get_tracer("oyer"), None
    # None: the SDK reads the variable.
    size = None if os.environ.get("OTEL_BSP_MAX_QUEUE_SIZE") else _QUEUE
    with _without_fork_hooks():
        own = TracerProvider(resource=Resource.create(_named(service)), shutdown_on_exit=False)
        own.add_span_processor(_Processor(OTLPSpanExporter(), max_queue_size=size))
    atexit.register(own.shutdown)
    return own.get_tracer("oyer"), own


@contextmanager
def _without_fork_hooks() -> Iterator[None]:
    """Drop the SDK's hooks on forks.

    They start threads in each child of a fork, and a subprocess of a gevent worker begins as a fork.
    Under gevent the start of a thread lets other greenlets run: in the child they would read replies
    from the worker's sockets. Without the hooks a forked child exports from its first span on; its
    resource keeps the parent's process id.
    """
    register = os.register_at_fork

    def register_others(**hooks: Any) -> None:
        # The module of a built-in function is None.
        if not all(str(hook.__module__).startswith("opentelemetry.") for hook in hooks.values()):
            register(**hooks)

    os.register_at_fork = register_others
    try:
        yield
    finally:
        os.register_at_fork = register


def _named(service: str) -> dict[str, Any]:
    named = "OTEL_SERVICE_NAME" in os.environ or SERVICE_NAME in os.environ.get(
        "OTEL_RESOURCE_ATTRIBUTES", ""
    )
    return {} if named else {SERVICE_NAME: service}
