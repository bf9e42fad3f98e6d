"""Checks the token of a request, and reads its body up to a limit."""

import hmac
from typing import Annotated, Any

from fastapi import Depends, HTTPException, Request, Security
from fastapi.security import (
    HTTPAuthorizationCredentials,
    HTTPBasic,
    HTTPBasicCredentials,
    HTTPBearer,
)

NOT_AUTHENTICATED = "the bearer token is missing or wrong: send `Authorization: Bearer …`"

_bearer = HTTPBearer(auto_error=False)


_basic = HTTPBasic(auto_error=False)
"""For clients that take only a URL: `http://oyer:<token>@host/…`."""


def token_checks(token: str | None) -> list[Any]:
    """Return the dependencies that let requests with the token pass; none without a token."""
    if token is None:
        return []

    async def check(
        bearer: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)],
        basic: Annotated[HTTPBasicCredentials | None, Security(_basic)],
    ) -> None:
        shown = bearer.credentials if bearer else basic.password if basic else ""
        if not hmac.compare_digest(shown.encode(), token.encode()):
            raise HTTPException(401)

    return [Depends(check)]


async def read_body(request: Request, max_bytes: int) -> bytes:
    """Read a body.

    Raises:
        HTTPException: it is longer than `max_bytes`.
    """
    too_long = HTTPException(413, f"the body is longer than {max_bytes} bytes: send fewer rollouts")
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
