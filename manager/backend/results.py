"""Reads the Celery result of a batch, and words what failed."""

import json
from collections.abc import Sequence
from typing import Any

from oyer.protocol.errors import (
    BatchLost,
    InvalidConfig,
    InvalidLengthCall,
    MessageRefused,
)

_FINAL = tuple(
    kind.__name__ for kind in (BatchLost, InvalidConfig, InvalidLengthCall, MessageRefused)
)
"""Errors that every further submission would raise again."""


def read_result(blob: bytes | str) -> dict[str, Any]:
    """Decode the stored result of a batch; a value that Celery did not write is a failure."""
    try:
        meta = json.loads(blob)
        if isinstance(meta["status"], str) and "result" in meta:
            return dict(meta)
    except (ValueError, TypeError, KeyError, RecursionError):
        pass
    return refused("the value at its result key was not written by Celery; submit again")


def refused(why: str) -> dict[str, Any]:
    """Return a refusal in the form in which Celery stores an error of a task."""
    return {
        "status": "FAILURE",
        "result": {"exc_type": MessageRefused.__name__, "exc_message": [why]},
    }


def no_worker_on(queues: Sequence[str]) -> str:
    """Name the queues that no worker consumes, and the command that starts one."""
    named = " and ".join(f"`{queue}`" for queue in queues)
    commands = " and ".join(f"`oyer worker {queue}`" for queue in queues)
    return f"; no worker listens on queue {named}: start {commands}" if queues else ""


def what_is_missing(judged: int, total: int, unserved: Sequence[str]) -> str:
    """Say what a batch that has not ended waits for, by its verdicts and its unserved queues."""
    missing = (
        f"{total - judged} of {total} verdicts are missing"
        if judged < total
        else "every verdict is there; its length terms or its combination are missing"
    )
    return missing + no_worker_on(unserved)


def is_final(meta: dict[str, Any], cause: str) -> bool:
    """Whether every further submission would fail too, in `combine` or in another task."""
    result = meta.get("result")
    raised = result.get("exc_type") if isinstance(result, dict) else None
    return raised in _FINAL or any(f"raised {name}(" in cause for name in _FINAL)


def cause_of(meta: dict[str, Any]) -> str:
    """Return the error of a failed batch."""
    result = meta.get("result")
    if isinstance(result, dict):
        message = result.get("exc_message")
        text = " ".join(map(str, message)) if isinstance(message, (list, tuple)) else str(message)
        return f"{result.get('exc_type', 'error')}: {text}"
    return str(result)
