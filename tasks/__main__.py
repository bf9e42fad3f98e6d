"""`python -P -m oyer.tasks worker …` is `celery -A oyer.tasks worker …` with a safe path.

Celery puts the working folder in front of `sys.path` while it loads an app, so that a folder
there called like a package would be run. Here the app is loaded before.
"""

import gc
from importlib import import_module

from celery import maybe_patch_concurrency

_OBJECTS_PER_COLLECTION = 50_000
"""New objects after which Python looks for garbage in cycles."""


def main() -> None:
    """Run Celery's command line on the workers' app."""
    # With Python's 700, collections take a fifth of the time in which a worker loads.
    gc.set_threshold(_OBJECTS_PER_COLLECTION)
    # Gevent patches the standard library before anything else loads.
    maybe_patch_concurrency()
    import_module("oyer.tasks.celery")
    celery = import_module("celery.bin.celery")
    # Not its `main`, which takes options from variables called CELERY_*.
    celery.celery(prog_name="celery")


main()
