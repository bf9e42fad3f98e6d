"""Builds and sends the Celery tasks of a batch: a chord of header tasks and `combine`, or one task."""

from functools import partial
from typing import TYPE_CHECKING, Any

from oyer.protocol import names
from oyer.protocol.batch import Manifest
from oyer.protocol.packing import WIRE_VERSION
from oyer.telemetry import tracing

if TYPE_CHECKING:
    from celery import Celery
    from celery.canvas import Signature
    from kombu import Producer


def header_and_callback(
    app: "Celery", manifest: Manifest
) -> "tuple[list[Signature[Any]], Signature[Any]]":
    """Return the header of a batch's chord (one task per chunk, and the length task) and its callback.

    Without judges, a combine worker records the chunks, so that no judge worker is needed. A length
    method that needs the judges' scores runs after them, in the callback.
    """
    from celery import chain

    batch_id = manifest.batch_id
    of_chunk = names.JUDGE_TASK if manifest.plan["judges"] else names.RECORD_TASK
    header = [task(app, of_chunk, batch_id, chunk=k) for k in range(len(manifest.chunks))]
    if of_chunk == names.JUDGE_TASK:
        for signature, (_, rollouts) in zip(header, manifest.chunks, strict=True):
            signature.set(headers=_flow_header(manifest, rollouts))
    combine = task(app, names.COMBINE_TASK, batch_id, takes_parts=True)
    callback = [combine]
    if manifest.length_follows_judges:
        callback.insert(0, task(app, names.LENGTH_TASK, batch_id, takes_parts=True))
    elif manifest.plan["length"]:
        header.append(task(app, names.LENGTH_TASK, batch_id))
    for one in (*header, *callback):
        one.set(headers={**(one.options.get("headers") or {}), **_trace_header(manifest)})
    return header, combine if len(callback) == 1 else chain(*callback, app=app)


def send_chord(app: "Celery", manifest: Manifest, producer: "Producer | None" = None) -> None:
    """Send the tasks of a batch, whose result gets the batch's id.

    Args:
        producer: sends the header. Celery's `chord` does not hand a producer on to its header, so that
            a producer's publish batch would hold none of the header's messages.
    """
    from celery import chord, group

    tasks, callback = header_and_callback(app, manifest)
    header = group(tasks, app=app)
    header.apply_async = partial(header.apply_async, producer=producer)  # type: ignore[method-assign]
    chord(header, app=app).run(header, callback, (), app=app, task_id=manifest.batch_id)


def small_batch_task(app: "Celery", manifest: Manifest) -> "Signature[Any]":
    """Return the only task of a batch with `Manifest.one_task`."""
    signature = task(app, names.SMALL_BATCH_TASK, manifest.batch_id)
    signature.set(headers=_flow_header(manifest, manifest.size) | _trace_header(manifest))
    return signature


def _trace_header(manifest: Manifest) -> dict[str, Any]:
    return {} if manifest.trace is None else {tracing.HEADER: manifest.trace}


def _flow_header(manifest: Manifest, rollouts: int) -> dict[str, Any]:
    judges = manifest.plan["judges"]
    return names.flow_header(
        manifest.run,
        manifest.priority,
        [judge["endpoint"] for judge in judges],
        rollouts * sum(judge["samples"] for judge in judges),
    )


def task(
    app: "Celery", name: str, batch_id: str, *, takes_parts: bool = False, **kwargs: Any
) -> "Signature[Any]":
    """Return one task on its queue.

    Args:
        takes_parts: whether its first argument is the results of the tasks before it.
    """
    return app.signature(
        name,
        kwargs={"v": WIRE_VERSION, "batch_id": batch_id, **kwargs},
        immutable=not takes_parts,
        options={
            "queue": names.QUEUE_OF_TASK[name],
            # A chord counts its tasks; only the result of its callback is read.
            "ignore_result": name in (*names.HEADER_TASKS, names.END_TASK),
            # Workers log these; rollouts must not appear in logs.
            "argsrepr": "",
            "kwargsrepr": "",
        },
    )
