"""`python -P -m oyer.tasks worker …` is `celery -A oyer.tasks worker …` with a safe path.

Celery puts the working folder in front of `sys.path` while it loads an app, so that a folder there
could shadow a package. This module loads the app before that.
"""

import gc
from importlib import import_module

from celery import maybe_patch_concurrency

_OBJECTS_PER_COLLECTION = 50_000
"""Allocations between garbage collections while the worker loads."""


def main() -> None:
    """Run Celery's command line on the workers' app."""
    # With Python's default of 700, collections take a fifth of a worker's start time.
    gc.set_threshold(_OBJECTS_PER_COLLECTION)
    # gevent must patch the standard library before other modules are imported.
    maybe_patch_concurrency()
    import_module("oyer.tasks.celery")
    celery = import_module("celery.bin.celery")
    # Celery's `main` would read options from variables called CELERY_*.
    celery.celery(prog_name="celery")


main()
