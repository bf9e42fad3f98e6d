"""Runs a Celery worker of a later release: one whose messages are of the next version.

python -m tests.support.newer_release -A oyer.tasks worker …
"""


def main() -> None:
    """Raise the version, then be `celery`."""
    from celery import maybe_patch_concurrency

    maybe_patch_concurrency()
    from oyer.protocol import packing

    packing.WIRE_VERSION += 1
    from celery.__main__ import main as celery

    celery()


if __name__ == "__main__":
    main()
