"""Who may read the page, and what a browser may do with it."""

import hmac
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = "oyer_view"

POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:;"
    " connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)

HEALTH = ("/healthz", "/readyz")
"""Paths that everyone may read; they say whether the page and the record work."""

_HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    # With `no-referrer`, browsers send the origin of a form as `null`.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}

_LOOPBACK = {"localhost", "127.0.0.1", "[::1]"}

Handler = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True)
class AccessRules:
    """Which requests are answered."""

    token: str | None = None
    """Required from everyone if set."""
    hosts: frozenset[str] = frozenset()
    """Further names of this server, beside the loopback names. Any other `Host` is refused, so that
    a foreign page cannot reach this one under a name of its own (DNS rebinding)."""


class Access:
    """ASGI middleware: checks host, origin and token, and sets the security headers."""

    def __init__(self, app: ASGIApp, rules: AccessRules) -> None:
        self._app = app
        self._rules = rules

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        # Probes have no token, and name the server by its address.
        refusal = None if scope["path"] in HEALTH else self._refusal(Request(scope))
        await (refusal or self._app)(scope, receive, with_headers)

    def _refusal(self, request: Request) -> Response | None:
        host = request.headers.get("host", "")
        name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
        if name not in _LOOPBACK and name not in self._rules.hosts:
            return PlainTextResponse(
                f"The name {name!r:.100} is not one of this server; name it by --trusted-host.", 403
            )
        if request.method not in ("GET", "HEAD"):
            origin = request.headers.get("origin")
            if origin is None or urlsplit(origin).netloc != host:
                return PlainTextResponse("The request comes from another page.", 403)
        return self._token_refusal(request)

    def _token_refusal(self, request: Request) -> Response | None:
        token = self._rules.token
        if token is None:
            return None
        given = request.query_params.get("token")
        if given is not None and _equal(given, token):
            # Moves the token out of the address, so that it is not in the history or in links.
            url = request.url.remove_query_params("token")
            answer = RedirectResponse(str(url.replace(scheme="", netloc="")) or "/", 303)
            answer.set_cookie(COOKIE, token, httponly=True, samesite="strict")
            return answer
        bearer = request.headers.get("authorization", "").removeprefix("Bearer ")
        if _equal(bearer, token) or _equal(request.cookies.get(COOKIE, ""), token):
            return None
        return PlainTextResponse("Open the page once with ?token=TOKEN at the end.", 401)


def _equal(given: str, token: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "replace"), token.encode())
