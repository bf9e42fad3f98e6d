"""Reads what lies under the key of a batch's result; what Celery did not write is a failure."""

import json
from typing import Any

from oyer.protocol.errors import MessageRefused


def read_result(blob: bytes | str) -> dict[str, Any]:
    """Read what Celery stored for a batch; what Celery did not write is a failure."""
    try:
        meta = json.loads(blob)
        if isinstance(meta["status"], str) and "result" in meta:
            return dict(meta)
    except (ValueError, TypeError, KeyError, RecursionError):
        pass
    return failure("what lies under the key of its result was not written by Celery; submit again")


def failure(refused: str) -> dict[str, Any]:
    """Write a refusal as Celery stores an error that a task raised."""
    return {
        "status": "FAILURE",
        "result": {"exc_type": MessageRefused.__name__, "exc_message": [refused]},
    }
