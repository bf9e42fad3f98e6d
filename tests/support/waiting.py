"""Waits for conditions that no event announces."""

import time
from collections.abc import Callable

POLL_S = 0.02
"""Pause between two looks at a condition."""


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = 60.0) -> None:
    """Poll a condition until it holds.

    Args:
        condition: The condition.
        what: What should hold, for the error.
        timeout_s: Longest wait; the machine may be busy.

    Raises:
        AssertionError: The condition does not hold in time.
    """
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(POLL_S)
