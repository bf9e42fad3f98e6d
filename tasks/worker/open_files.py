"""Raises the limit of open files: the usual 1,024 is too low for a busy judge worker."""

import resource
from collections.abc import Mapping
from typing import TYPE_CHECKING

from oyer.protocol.errors import InvalidConfig

if TYPE_CHECKING:
    from oyer.config.reward import EndpointConfig

_MOST = 2**20
"""Upper bound of the new limit: some programs iterate over all file numbers up to it."""

_BESIDES_CALLS = 256
"""Open files of a judge worker beside its calls: Redis, database, libraries. It held 16 with 1,200
calls in flight; chunks that end at the same time need one Redis connection each."""


def raise_limit() -> int:
    """Raise the soft limit of open files to the hard limit, and return it; children inherit it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST if hard == resource.RLIM_INFINITY else min(hard, _MOST)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return wanted
    return _MOST if soft == resource.RLIM_INFINITY else soft


def check_calls_fit(endpoints: Mapping[str, "EndpointConfig"], limit: int) -> None:
    """Check that one judge worker may open enough files for all calls that the limits allow.

    Args:
        endpoints: of this worker; one process may make all their calls while others idle.
        limit: maximum open files of the process.

    Raises:
        InvalidConfig: it may not; the message names the numbers and the fix.
    """
    calls = sum(endpoint.max_in_flight for endpoint in endpoints.values())
    needed = calls + _BESIDES_CALLS
    if needed <= limit:
        return
    largest = max(endpoints, key=lambda name: endpoints[name].max_in_flight)
    raise InvalidConfig(
        f"endpoints.{largest}.max_in_flight: {calls} calls in flight over all endpoints need"
        f" {needed} open files in a judge worker, which may open {limit}; raise the hard limit"
        f" (`ulimit -Hn {needed}`, `LimitNOFILE=` in systemd, `--ulimit nofile={needed}` in Docker),"
        f" or let `max_in_flight` add up to {max(1, limit - _BESIDES_CALLS)} at most"
    )
