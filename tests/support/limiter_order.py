"""Run by a test in a process of its own: two calls on greenlets share one permit.

Prints what happened after the first call's permit was released, in order.
"""

from gevent import monkey

monkey.patch_all()

import sys
import time

import gevent
import gevent.event

from oyer.protocol.redis_client import connect
from oyer.tasks.coordination.limiter import Limiter

limiter = Limiter(
    connect(sys.argv[1]),
    "e",
    max_in_flight=1,
    requests_per_minute=None,
    tokens_per_minute=None,
    adaptive=False,
    worker_id="w",
)
deadline = time.time() + 60
second_waits = gevent.event.Event()


def first() -> None:
    """Hold the permit until the second call waits."""
    with limiter.permit(1, deadline):
        second_waits.wait()
    print("the first reply is processed")


def second() -> None:
    """Wait for the permit."""
    gevent.spawn(second_waits.set)
    with limiter.permit(1, deadline):
        print("the second request is sent")


gevent.joinall([gevent.spawn(first), gevent.spawn(second)], raise_error=True)
limiter.close()
