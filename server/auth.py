"""Who may ask, and how much: bearer token, and a body read no further than its limit."""

import base64
import binascii
import hmac

from starlette.requests import Request


class RefusedError(Exception):
    """A request that is not served.

    Attributes:
        status_code: the HTTP status to answer with.
    """

    def __init__(self, status_code: int, message: str) -> None:
        super().__init__(message)
        self.status_code = status_code


def check_token(request: Request, token: str | None) -> None:
    """Let a request pass that shows the token.

    Clients that take only a URL send it as `http://oyer:<token>@host/…`, which is Basic.

    Raises:
        RefusedError: it shows none, or another.
    """
    if token is None:
        return
    shown = _shown(request.headers.get("authorization", ""))
    if not hmac.compare_digest(shown.encode(), token.encode()):
        raise RefusedError(
            401, "the bearer token is missing or wrong: send `Authorization: Bearer …`"
        )


async def read_body(request: Request, max_bytes: int) -> bytes:
    """Read a body.

    Raises:
        RefusedError: it is longer than `max_bytes`.
    """
    too_long = RefusedError(413, f"the body is longer than {max_bytes} bytes: send fewer rollouts")
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > max_bytes:
        raise too_long
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > max_bytes:
            raise too_long
        parts.append(part)
    return b"".join(parts)


def _shown(header: str) -> str:
    scheme, _, value = header.partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value, validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return ""
    return ""
