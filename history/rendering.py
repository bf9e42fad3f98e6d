"""Renders the templates; every text of a rollout is escaped."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.responses import HTMLResponse

from oyer.history.curves import number
from oyer.models.step_total import NO_STEP

STATIC = Path(__file__).with_name("static")

SHOWN_CHARS = 100_000
"""Longest text within a page, in characters; longer ones link to the whole text."""


def html(template: str, values: Mapping[str, Any], status_code: int = 200) -> HTMLResponse:
    """Render a page."""
    body = render(template, values).encode("utf-8", "replace")
    return HTMLResponse(body, status_code)


def render(template: str, values: Mapping[str, Any]) -> str:
    """Render a template as text, without NUL, which HTML does not allow."""
    return _environment.get_template(template).render(**values).replace("\0", "\ufffd")


def link(*parts: Any, **query: Any) -> str:
    """Build an address from path parts and a query; None is left out."""
    path = "/" + "/".join(quote(str(part), safe="") for part in parts)
    given = {name: value for name, value in query.items() if value is not None}
    return f"{path}?{urlencode(given)}" if given else path


def step_number(step: int | None) -> int:
    """Return a step as it stands in addresses."""
    return NO_STEP if step is None else step


def step_name(step: int | None) -> str:
    """Return a step's name."""
    return "without a step" if step in (None, NO_STEP) else f"step {step}"


def money(value: float | None) -> str:
    """Write US dollars."""
    return "–" if value is None else f"${value:,.4f}" if value < 1 else f"${value:,.2f}"


def share(value: float | None) -> str:
    """Write a share as a percentage."""
    return "–" if value is None else f"{value:.1%}"


def clock(value: datetime | None) -> str:
    """Write a time in UTC."""
    return "–" if value is None else value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")


def _environment_of_pages() -> Environment:
    environment = Environment(
        loader=PackageLoader("oyer.history"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {
        "link": link, "step_number": step_number, "step_name": step_name,
        "SHOWN_CHARS": SHOWN_CHARS,
    }  # fmt: skip
    environment.filters |= {"number": number, "money": money, "share": share, "clock": clock}
    return environment


_environment = _environment_of_pages()
