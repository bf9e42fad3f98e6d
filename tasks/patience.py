"""Waits for a record that is away or full for a while: what was paid for is worth waiting for."""

import time
from collections.abc import Callable
from typing import TypeVar

from celery.utils.log import get_logger
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

log = get_logger(__name__)

T = TypeVar("T")

PAUSES_S = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
"""Waits between attempts to reach the record: about a minute in all, as a restart may take."""


def patiently(work: Callable[[], T]) -> T:
    """Run a transaction of its own, again after a while where the record cannot be used.

    Raises:
        OperationalError: the record was still away, or its disk full, after the last wait.
        PoolTimeout: every connection was still waiting for it.
    """
    for pause_s in PAUSES_S:
        try:
            return work()
        except (OperationalError, PoolTimeout) as error:
            why = error.orig if isinstance(error, OperationalError) else error
            log.warning("the record cannot be used, trying again: %s", why)
            time.sleep(pause_s)
    return work()
