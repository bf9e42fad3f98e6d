"""Settings of the server, in addition to the reward configuration."""

import ipaddress
from dataclasses import dataclass
from typing import Literal

from oyer.protocol.errors import InvalidInput

TIMEOUT_S = 100.0
"""Maximum time until a scoring request is answered, in seconds; the client of slime times out
after 120, that of OpenRLHF after 180."""

MAX_BODY_BYTES = 64 * 2**20
"""Maximum size of a request body."""


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """How requests are authenticated and answered."""

    token: str | None = None
    """The token that a client must send; None accepts every client."""
    timeout_s: float = TIMEOUT_S
    """Maximum time until a scoring request is answered, in seconds."""
    on_late: Literal["answer", "retry"] = "answer"
    """If a judge is late, answer without that reward, or answer 503; the client's retry then joins
    the judge calls in progress."""
    stand_in: float | None = None
    """The number sent for a missing reward if the protocol allows only numbers; None sends a neutral one:
    the mean of the prompt's rewards so far, else of the latest ones, else 0."""
    group_size: int | None = None
    """Samples per prompt, if the rollouts of a prompt arrive in separate requests."""
    group_timeout_s: float | None = None
    """Maximum wait of such a group for its last rollout, in seconds; limited to a fraction of
    `timeout_s`. None: a small multiple of what the latest groups needed."""
    tokenizer: str | None = None
    """Folder or Hugging Face name of the tokenizer whose special tokens end a response; None: the
    configured `tokenizer`, else the end marks of common models."""
    run: str | None = None
    """The training run to record rollouts under, unless a request names one; defaults to `http`.
    Servers with the same run share its groups; without a run, each server has its own."""
    max_body_bytes: int = MAX_BODY_BYTES
    """Maximum size of a request body."""


def check_bind(host: str, token: str | None) -> None:
    """Refuse to serve other machines without a token.

    Raises:
        InvalidInput: the host is reachable from other machines, and there is no token.
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
