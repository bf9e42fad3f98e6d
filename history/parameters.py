"""Reads the parameters of requests."""

import math
from urllib.parse import parse_qs

from starlette.convertors import Convertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.requests import Request

from oyer.protocol.errors import InvalidInput

_MAX_FORM_BYTES = 100_000


class NumberInPath(Convertor[int]):
    """A whole number in an address; longer ones than the record can hold are no address of a page."""

    regex = "[0-9]{1,18}"

    def convert(self, value: str) -> int:
        """Read the number."""
        return int(value)

    def to_string(self, value: int) -> str:
        """Write the number."""
        return str(value)


register_url_convertor("number", NumberInPath())


def whole(request: Request, name: str) -> int | None:
    """Return a whole number of the query, None if it is not given."""
    value = request.query_params.get(name)
    return whole_number(name, value) if value else None


def whole_number(name: str, value: str) -> int:
    """Read a whole number.

    Raises:
        InvalidInput: it is none.
    """
    try:
        return int(value)
    except ValueError as error:
        raise InvalidInput(f"{name}: is {value!r:.40}; give a whole number") from error


def decimal(request: Request, name: str) -> float | None:
    """Return a finite number of the query, None if it is not given."""
    value = request.query_params.get(name)
    return decimal_number(name, value) if value else None


def decimal_number(name: str, value: str) -> float:
    """Read a finite number.

    Raises:
        InvalidInput: it is none.
    """
    try:
        number = float(value)
        if not math.isfinite(number):
            raise ValueError
        return number
    except ValueError as error:
        raise InvalidInput(f"{name}: is {value!r:.40}; give a number") from error


def author_of(request: Request) -> str:
    """Return the reader's name: of the query, else of the cookie."""
    given = request.query_params.get("author", "").strip()
    try:
        return given or bytes.fromhex(request.cookies.get("oyer_author", "")).decode()
    except ValueError:
        return given


def review_of(request: Request) -> dict[str, str] | None:
    """Return run, mode and judge of the review that a score's page is opened for.

    Raises:
        InvalidInput: names the field and the fix.
    """
    given = request.query_params
    run = whole(request, "review")
    if run is None:
        return None
    return {"run": str(run), "mode": mode_of(given.get("mode")), "judge": given.get("judge", "")}


def mode_of(value: str | None) -> str:
    """Return the order of a review: `disagreements`, the default, or `random`.

    Raises:
        InvalidInput: it is neither.
    """
    if value not in (None, "", "disagreements", "random"):
        raise InvalidInput(f"mode: is {value!r:.40}; give disagreements or random")
    return value or "disagreements"


async def form_of(request: Request) -> dict[str, str]:
    """Read a posted form; the last value of each field counts."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > _MAX_FORM_BYTES:
            raise HTTPException(413, "The form is too long.")
    fields = parse_qs(body.decode("utf-8", "replace"), keep_blank_values=True)
    return {name: values[-1] for name, values in fields.items()}
