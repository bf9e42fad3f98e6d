"""Logging of workers and servers: one line per event on standard error, as text or JSON."""

import contextvars
import json
import logging
import os
from datetime import UTC, datetime
from typing import Any, Literal, cast

from celery.exceptions import Reject

from oyer.protocol.errors import InvalidConfig

FORMAT_VARIABLE = "OYER_LOG_FORMAT"
"""Environment variable with the format of the log lines."""

LogFormat = Literal["text", "json"]

_VALUES: contextvars.ContextVar[dict[str, str]] = contextvars.ContextVar("oyer_log_values")
"""Values of the lines that the current task or greenlet logs."""

_TOP_LEVEL = ("batch_id", "run", "judge")
"""Values that a JSON line holds at its top level where they are known."""

_QUIET = (
    "openai",
    "httpx",
    "httpx2",
    "alembic",
    # Logs each task's whole result.
    "celery.app.trace",
)
"""Loggers with INFO lines for every call or task."""

_RECEIVED_TASKS = "celery.worker.strategy"
"""Logger of received tasks; used at `DEBUG` only."""


def log_format() -> LogFormat:
    """Return the format that `OYER_LOG_FORMAT` names; default `text`.

    Raises:
        InvalidConfig: the format is unknown.
    """
    chosen = os.environ.get(FORMAT_VARIABLE) or "text"
    if chosen not in ("text", "json"):
        raise InvalidConfig(f"{FORMAT_VARIABLE}: {chosen!r:.40} is neither `text` nor `json`")
    return cast(LogFormat, chosen)


def log_values(**values: str) -> None:
    """Add values to the JSON lines of the current task or greenlet: `batch_id`, `run`, `judge`."""
    _VALUES.set({**_VALUES.get({}), **values})


def forget_log_values() -> None:
    """Remove the values: another task begins in this thread."""
    _VALUES.set({})


def configure_logging(level: int) -> None:
    """Send log lines to standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(_JsonFormatter() if log_format() == "json" else _text_formatter())
    handler.addFilter(_is_no_hand_back)
    logging.basicConfig(level=level or logging.WARNING, handlers=[handler], force=True)
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger(_RECEIVED_TASKS).setLevel(
        logging.NOTSET if 0 < level <= logging.DEBUG else logging.WARNING
    )


def _is_no_hand_back(record: logging.LogRecord) -> bool:
    """Drop Celery's traceback for each task that a stopping worker hands back."""
    error: Any = record.exc_info[1] if record.exc_info else None
    return not (isinstance(error, Reject) and error.requeue)  # type: ignore[attr-defined]


def _text_formatter() -> logging.Formatter:
    return logging.Formatter("%(asctime)s %(levelname)s %(processName)s %(name)s: %(message)s")


class _JsonFormatter(logging.Formatter):
    """One JSON object per line, with structured values in `fields`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        entry: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "pid": record.process,
            "logger": record.name,
            "message": record.getMessage(),
        }
        fields = getattr(record, "fields", None)
        known = {**_VALUES.get({}), **(fields or {})}
        entry |= {name: known[name] for name in _TOP_LEVEL if known.get(name) is not None}
        if fields is not None:
            entry["fields"] = fields
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False, default=str)
