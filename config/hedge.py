"""Configuration of hedging: a second request for calls that take unusually long."""

import math
import re
from typing import Annotated, Any

from pydantic import BeforeValidator

from oyer.config.section import MAX_TIME_S, Section

_QUANTILE = re.compile(r"p([5-9]\d)")
_PERCENT = re.compile(r"(\d+(?:\.\d+)?)\s*%")


def _after(value: Any) -> Any:
    """Check a quantile or a number of seconds."""
    if isinstance(value, str) and _QUANTILE.fullmatch(value):
        return value
    if _is_number(value) and 0 < value <= MAX_TIME_S:
        return float(value)
    raise ValueError(
        "must be a quantile from p50 to p99, e.g. `p95`, or a number of seconds above 0"
    )


def _part(value: Any) -> Any:
    """Convert `5%` to 0.05."""
    percent = _PERCENT.fullmatch(value) if isinstance(value, str) else None
    part = float(percent[1]) / 100 if percent else value
    if _is_number(part) and 0 < part <= 1:
        return float(part)
    raise ValueError(
        "must be a part of the calls, above 0 % and at most 100 %, e.g. `5%` or 0.05; to hedge"
        " nothing, leave out `hedge`"
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


class Hedge(Section):
    """When a call that takes unusually long gets a second request. The first complete reply counts, the
    other request is cancelled, and both are paid."""

    after: Annotated[str | float, BeforeValidator(_after)] = "p95"
    """Time in flight from which on a call may get a second request: a quantile of the recent latencies of
    its endpoint and model, from `p50` to `p99`, or a number of seconds."""
    at_most: Annotated[float, BeforeValidator(_part)] = 0.05
    """Most second requests as a part of the calls, e.g. `5%` or 0.05."""

    @property
    def quantile(self) -> float | None:
        """`after` as a fraction; None if it is a time."""
        return int(self.after[1:]) / 100 if isinstance(self.after, str) else None

    @property
    def after_s(self) -> float | None:
        """`after` in seconds; None if it is a quantile."""
        return None if isinstance(self.after, str) else self.after
