"""Celery pool and concurrency of each kind of worker."""

from oyer.protocol import names

POOLS = {
    names.JUDGE_QUEUE: "gevent",
    names.LENGTH_QUEUE: "solo",
    names.COMBINE_QUEUE: "solo",
}
"""Judge calls wait on the network, so greenlets; torch wants a process of its own."""

DEFAULT_CONCURRENCY = {names.JUDGE_QUEUE: 64, names.LENGTH_QUEUE: 1, names.COMBINE_QUEUE: 1}
"""Tasks under way at once in one process; calls in flight are limited per endpoint.

A chunk of rollouts that came one by one may hold a single call: with 16 chunks in each of two
processes, 64 rollouts/s at 1 s a call waited for 0.9 s beyond the call, and for 0.04 s with 64.
"""
