"""The span of a batch's submission."""

from collections.abc import Iterator
from contextlib import contextmanager

from oyer.protocol.batch import Manifest
from oyer.telemetry import tracing


@contextmanager
def traced_submission(manifest: Manifest) -> Iterator[None]:
    """Store a batch or send its tasks in a span, which is noted in the manifest.

    Spans of earlier submissions are links, because their workers may still run.
    """
    with tracing.span(
        "oyer.submit",
        "producer",
        {
            **manifest.labels,
            "split": manifest.split,
            "rollouts": manifest.size,
            "submission": manifest.submission,
            "why": manifest.sendings[-1].why if manifest.sendings else None,
        },
        links=[one.trace for one in manifest.sendings[:-1]],
    ) as span:
        if span is not None and manifest.sendings:
            manifest.note_trace(tracing.traceparent(span))
        yield
