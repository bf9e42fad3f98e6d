"""Celery pool and concurrency of each kind of worker."""

from oyer.protocol import names

POOLS = {
    names.JUDGE_QUEUE: "gevent",
    names.LENGTH_QUEUE: "solo",
    names.COMBINE_QUEUE: "solo",
}
"""Judge calls wait on the network: greenlets. torch runs in its own process."""

DEFAULT_CONCURRENCY = {names.JUDGE_QUEUE: 256, names.LENGTH_QUEUE: 1, names.COMBINE_QUEUE: 1}
"""Concurrent tasks per process; calls in flight are limited per endpoint, and `Admission` takes no more
chunks than these need.

A streamed chunk may be a single call. At 64 rollouts/s, 1 s a call and two processes, rollouts waited
0.9 s beyond their call with 16 chunks per process, and 0.04 s with 64. Several runs share the slots.
"""
