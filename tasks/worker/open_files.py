"""Open files: the usual soft limit of 1,024 is less than the connections of one busy judge worker."""

import resource
from collections.abc import Mapping
from typing import TYPE_CHECKING

from oyer.protocol.errors import InvalidConfig

if TYPE_CHECKING:
    from oyer.config.reward import EndpointConfig

_MOST = 2**20
"""More is not asked for: some programs go through all numbers up to the limit when they start."""

_BESIDES_CALLS = 256
"""Open files of a judge worker beside its calls: Redis, the record, libraries. With 1,200 calls in
flight it held 16 more; chunks that end at one moment need a connection to Redis each."""


def raise_limit() -> int:
    """Raise this process's soft limit of open files to its hard limit, and return it.

    Children inherit it.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST if hard == resource.RLIM_INFINITY else min(hard, _MOST)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return wanted
    return _MOST if soft == resource.RLIM_INFINITY else soft


def check_calls_fit(endpoints: Mapping[str, "EndpointConfig"], limit: int) -> None:
    """Check that one judge worker can hold every call that the limits let it have in flight.

    Args:
        endpoints: those of this worker; one process may have all their calls while others idle.
        limit: files that the process may open.

    Raises:
        InvalidConfig: they do not fit; the message names the numbers and what to change.
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
