"""Logging of the worker processes: one line per event, on standard error, as text or as JSON."""

import json
import logging
import os
from datetime import UTC, datetime
from typing import Any, Literal, cast

from celery.exceptions import Reject

from oyer.protocol.errors import InvalidConfig

FORMAT_VARIABLE = "OYER_LOG_FORMAT"
"""Environment variable that chooses the format of the workers' log lines."""

LogFormat = Literal["text", "json"]

_QUIET = (
    "openai",
    "httpx",
    "httpx2",
    "urllib3",
    "alembic",
    # Its line for each task holds the task's whole result.
    "celery.app.trace",
)
"""Libraries whose informational lines would repeat for every call or task."""

_OF_EACH_TASK = "celery.worker.strategy"
"""Logs each task that arrives: for `DEBUG` only."""


def log_format() -> LogFormat:
    """Return the format that the environment asks for.

    Raises:
        InvalidConfig: there is no such format.
    """
    chosen = os.environ.get(FORMAT_VARIABLE) or "text"
    if chosen not in ("text", "json"):
        raise InvalidConfig(f"{FORMAT_VARIABLE}: {chosen!r:.40} is neither `text` nor `json`")
    return cast(LogFormat, chosen)


def configure_logging(level: int) -> None:
    """Send log lines to standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(_JsonFormatter() if log_format() == "json" else _text_formatter())
    handler.addFilter(_is_no_hand_back)
    logging.basicConfig(level=level or logging.WARNING, handlers=[handler], force=True)
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger(_OF_EACH_TASK).setLevel(
        logging.NOTSET if 0 < level <= logging.DEBUG else logging.WARNING
    )


def _is_no_hand_back(record: logging.LogRecord) -> bool:
    """Drop what Celery logs, with a traceback, for each task that a stopping worker hands back."""
    error: Any = record.exc_info[1] if record.exc_info else None
    return not (isinstance(error, Reject) and error.requeue)  # type: ignore[attr-defined]


def _text_formatter() -> logging.Formatter:
    return logging.Formatter("%(asctime)s %(levelname)s %(processName)s %(name)s: %(message)s")


class _JsonFormatter(logging.Formatter):
    """One JSON object per line; what a line is about stands in `fields` as well."""

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
        if fields is not None:
            entry["fields"] = fields
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False, default=str)
