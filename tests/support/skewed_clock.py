"""Runs a Celery worker whose clock is wrong.

python -m tests.support.skewed_clock -30 -A oyer.tasks worker …
"""

import sys
import time


def main() -> None:
    """Shift the epoch clock, then be `celery`."""
    skew_s = float(sys.argv.pop(1))
    from celery import maybe_patch_concurrency

    maybe_patch_concurrency()
    right = time.time
    time.time = lambda: right() + skew_s
    from celery.__main__ import main as celery

    celery()


if __name__ == "__main__":
    main()
