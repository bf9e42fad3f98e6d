"""Spans of this process, if its configuration turns them on; imports OpenTelemetry only then.

- A span's place in its trace travels as a W3C `traceparent`: in message headers, and in the manifest
  for the link of a later submission.
- Tracing never fails or delays a batch: spans wait in a bounded queue and are dropped if it is full.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from oyer.protocol.errors import InvalidConfig

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer

Mode = Literal["off", "spans", "texts"]

HEADER = "traceparent"
"""Message header with the span that sent the message (W3C Trace Context)."""


class _State:
    """What this process traces with."""

    tracer: "Tracer | None" = None
    texts = False
    own_provider: Any = None


def start(mode: Mode, service: str) -> None:
    """Turn tracing on for this process, unless the mode is `off` or it is on already.

    Call it after gevent has patched the standard library, because the exporter starts a thread. A
    provider that the program has set is used; else spans go to the collector of the `OTEL_…` variables.

    Args:
        mode: `texts` adds prompts, responses and replies to the spans.
        service: `service.name` unless the environment names one.

    Raises:
        InvalidConfig: OpenTelemetry is not installed.
    """
    if mode == "off" or _State.tracer is not None:
        return
    try:
        from oyer.telemetry import provider
    except ImportError as error:
        raise InvalidConfig(
            f"tracing: OpenTelemetry cannot be imported ({error}); run `pip install 'oyer[otel]'`, or"
            " set `tracing: off`"
        ) from error
    _State.tracer, _State.own_provider = provider.tracer(service)
    _State.texts = mode == "texts"


def stop() -> None:
    """Send the last spans, for at most `provider.FLUSH_S`, and turn tracing off."""
    if _State.own_provider is not None:
        _State.own_provider.shutdown()
    _State.tracer, _State.own_provider, _State.texts = None, None, False


def tracer() -> "Tracer | None":
    """Return the tracer of this process; None if tracing is off."""
    return _State.tracer


def with_texts() -> bool:
    """Whether spans hold prompts, responses and replies."""
    return _State.texts


@contextmanager
def span(
    name: str,
    kind: Literal["producer", "consumer"],
    attributes: Mapping[str, Any],
    links: Iterable[str | None] = (),
) -> "Iterator[Span | None]":
    """Run a block in a span; None if tracing is off.

    Args:
        attributes: are named `oyer.<name>`; None is left out.
        links: the `traceparent` of earlier submissions.
    """
    if _State.tracer is None:
        yield None
        return
    from opentelemetry.trace import Link, SpanKind

    linked = [Link(context) for one in links if (context := _span_context(one)) is not None]
    values = {f"oyer.{key}": value for key, value in attributes.items() if value is not None}
    with _State.tracer.start_as_current_span(
        name, kind=SpanKind[kind.upper()], links=linked, attributes=values
    ) as found:
        yield found


def traceparent(found: "Span") -> str:
    """Return a span's place in its trace as W3C Trace Context."""
    context = found.get_span_context()
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def continue_from(parent: Any) -> None:
    """Make a message's sender the parent of the spans to come; without one, a new trace begins."""
    if _State.tracer is None:
        return
    from opentelemetry.context import attach

    attach(_context(parent))


def _context(parent: Any) -> Any:
    from opentelemetry.context import Context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    if not isinstance(parent, str):
        return Context()
    return TraceContextTextMapPropagator().extract({HEADER: parent}, Context())


def _span_context(parent: str | None) -> Any:
    from opentelemetry.trace import get_current_span

    found = get_current_span(_context(parent)).get_span_context()
    return found if found.is_valid else None
