"""Says in plain words why no reply arrived; urllib3's own texts hold the reprs of its objects."""

import re
from collections.abc import Mapping

from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    NameResolutionError,
    NewConnectionError,
    ProtocolError,
    ProxyError,
    ReadTimeoutError,
    SSLError,
)

_OBJECT = re.compile(r"^_?HTTPS?(?:Connection|Pool|ConnectionPool)\([^)]*\): ")
_REASON = re.compile(r"^\[(?:Errno -?\d+|SSL[^\]]*)\] ")


def plainly(error: HTTPError, address: str, timeouts_s: Mapping[str, float]) -> str:
    """Describe what the network did.

    Args:
        address: host and port that were called.
        timeouts_s: the limits of the call in seconds, by httpx's names `connect` and `read`.
    """
    if isinstance(error, NameResolutionError):
        return f"cannot find the host of {address}: {_reason(error)}"
    if isinstance(error, NewConnectionError):
        return f"cannot connect to {address}: {_reason(error)}"
    if isinstance(error, ConnectTimeoutError):
        return f"no connection to {address} within {timeouts_s['connect']:.3g} s"
    if isinstance(error, ReadTimeoutError):
        return f"no complete reply from {address} within {timeouts_s['read']:.3g} s"
    if isinstance(error, ProxyError):
        return f"cannot reach {address} through the proxy: {_reason(error.original_error)}"
    if isinstance(error, SSLError):
        return f"TLS with {address} failed: {_reason(error)}"
    if isinstance(error, ProtocolError):
        return f"the connection to {address} broke: {_reason(error)}"
    return _reason(error)


def _reason(error: BaseException) -> str:
    """Give the innermost text that the system or the protocol has for it."""
    inner = next((arg for arg in error.args if isinstance(arg, BaseException)), None)
    inner = inner or error.__cause__
    if isinstance(inner, BaseException) and str(inner):
        return _reason(inner)
    strerror = getattr(error, "strerror", None)
    text = strerror or _OBJECT.sub("", str(error)) or type(error).__name__
    return _REASON.sub("", str(text))
