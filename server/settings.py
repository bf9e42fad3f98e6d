"""What a server is told beside the reward configuration."""

import ipaddress
from dataclasses import dataclass
from typing import Literal

from oyer.protocol.errors import InvalidInput

TIMEOUT_S = 100.0
"""Longest until a scoring request is answered, in seconds: slime's client gives up after 120,
OpenRLHF's after 180."""

MAX_BODY_BYTES = 64 * 2**20
"""Largest request body."""


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """How requests are let in and answered."""

    token: str | None = None
    """What a client must show; None lets everybody in who reaches the port."""
    timeout_s: float = TIMEOUT_S
    """Longest until a scoring request is answered, in seconds."""
    on_late: Literal["answer", "retry"] = "answer"
    """A judge is late: answer without that reward, or 503 so that the client asks again, which
    joins the judging under way."""
    stand_in: float = 0.0
    """The number given for a missing reward where the protocol knows only numbers."""
    group_size: int | None = None
    """Samples of one prompt; gathers the rollouts of a prompt that arrive in single requests."""
    group_timeout_s: float = 60.0
    """How long such a group waits for its last rollout, in seconds; a part of `timeout_s` at most."""
    run: str | None = None
    """The training run that the record files rollouts under, unless a request names one; `http` when
    left out. Servers that name the same run share its groups; without a name, each has its own."""
    max_body_bytes: int = MAX_BODY_BYTES
    """Largest request body."""


def check_bind(host: str, token: str | None) -> None:
    """Refuse to serve other machines without a token.

    Raises:
        InvalidInput: the host is not of this machine alone, and there is no token.
    """
    if token is None and not _is_loopback(host):
        raise InvalidInput(
            f"--host {host}: is reachable from other machines; name the environment variable that"
            " holds a token with --token-env, or bind 127.0.0.1"
        )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
