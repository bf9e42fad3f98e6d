"""Requests that wait for others of their group give their connection back, and come again.

Clients cap their connections (slime: 64). If each open connection waits for a rollout whose request
cannot be sent for want of one, none can be answered. So a request that is not answered soon is
redirected to itself (307): aiohttp and requests follow that with the same body, and queue behind the
requests that wait for a connection. The judging goes on meanwhile. Other clients may not follow;
`oyer.server.held` closes their groups.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self
from urllib.parse import urlencode

from starlette.requests import Request

FIRST_HOLD_S = 0.25
"""How long a request is held before its first redirect, in seconds; each further time is twice as
long, so that all nine together are longer than any client waits."""

MAX_REDIRECTS = 9
"""aiohttp fails at the tenth."""

MAX_BODY_BYTES = 2**20
"""Longer bodies are not sent again."""

_TURN, _COPY = "oyer_turn", "oyer_copy"
_FOLLOWS = re.compile(r"\b(?:aiohttp|python-requests)/")


@dataclass(frozen=True)
class Turn:
    """How often a request has come, and the sample that it belongs to."""

    number: int = 0
    copy: int | None = None
    """The number of the sample among those with an equal request; None the first time."""

    @classmethod
    def of(cls, request: Request) -> Self:
        """Read a request's URL."""
        query = request.query_params
        number, copy = query.get(_TURN, ""), query.get(_COPY, "")
        if not (number.isdecimal() and copy.isdecimal() and len(number + copy) < 12):
            return cls()
        return cls(int(number), int(copy))

    @property
    def hold_s(self) -> float | None:
        """How long to hold the request before the next redirect; None if there is none left."""
        return FIRST_HOLD_S * 2**self.number if self.number < MAX_REDIRECTS else None

    def next_url(self, query: Mapping[str, str], copy: int) -> str:
        """Return the address of the redirect, relative to the request's."""
        return "?" + urlencode({**own_query(query), _TURN: self.number + 1, _COPY: copy})


def own_query(query: Mapping[str, str]) -> dict[str, str]:
    """Return the parameters of a URL that the client set itself."""
    return {name: value for name, value in query.items() if name not in (_TURN, _COPY)}


def follows(request: Request) -> bool:
    """Whether the client is known to follow a redirect of a POST request, with its body."""
    return _FOLLOWS.search(request.headers.get("user-agent", "")) is not None
