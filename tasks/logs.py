"""Logging of the worker processes: one line per event, on standard error."""

import logging

_QUIET = ("openai", "httpx", "httpx2", "urllib3", "alembic")
"""Libraries whose informational lines would repeat for every call, request bodies included."""


def configure_logging(level: int) -> None:
    """Send log lines to standard error."""
    logging.basicConfig(
        level=level or logging.WARNING,
        format="%(asctime)s %(levelname)s %(processName)s %(name)s: %(message)s",
        force=True,
    )
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
