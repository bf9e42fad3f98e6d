"""Draws charts as SVG; colours come from the style sheet, so that they follow light and dark; pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

WIDTH, HEIGHT = 320, 110
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 6, 8, 18

MAX_POINTS = 300
"""Most points of a curve; neighbouring ones are averaged beyond."""

Point = tuple[float, float | None]


@dataclass(frozen=True)
class Chart:
    """A curve by step; `points` are (step, value), None where there is no value."""

    title: str
    points: Sequence[Point]
    unit: str = ""

    @property
    def last(self) -> str:
        """The latest value, as text."""
        values = [value for _, value in self.points if value is not None]
        return f"{number(values[-1])}{self.unit}" if values else "–"

    def svg(self) -> Markup:
        """Draw the curve with its axes."""
        points = [(x, y) for x, y in _thinned(self.points) if y is not None and math.isfinite(y)]
        label = f"{self.title} by step"
        if not points:
            return _frame(label, "")
        to_x, to_y, axes = _scales(points)
        path = " ".join(f"{to_x(x):.1f},{to_y(y):.1f}" for x, y in points)
        dots = ""
        if len(points) < 40:
            dots = "".join(
                f'<circle cx="{to_x(x):.1f}" cy="{to_y(y):.1f}" r="2"><title>step {x:g}: {number(y)}'
                "</title></circle>"
                for x, y in points
            )
        return _frame(label, f'{axes}<polyline points="{path}"/>{dots}')


def scatter(title: str, points: Sequence[tuple[float, float, str]], marked: int | None) -> Markup:
    """Draw points (x, y, label) joined by x; `marked` is the index of the one to point out."""
    if not points:
        return _frame(title, "")
    to_x, to_y, axes = _scales([(x, y) for x, y, _ in points])
    line = " ".join(f"{to_x(x):.1f},{to_y(y):.1f}" for x, y, _ in sorted(points))
    dots = []
    for i, (x, y, label) in enumerate(points):
        kind = ' class="marked"' if i == marked else ""
        radius = 5 if i == marked else 3
        dots.append(
            f'<circle{kind} cx="{to_x(x):.1f}" cy="{to_y(y):.1f}" r="{radius}"><title>'
            f"{Markup.escape(label)}: {number(x)}, {number(y)}</title></circle>"
        )
    return _frame(title, f'{axes}<polyline class="thin" points="{line}"/>{"".join(dots)}')


def number(value: float | None) -> str:
    """Write a number with at most four significant digits."""
    if value is None:
        return "–"
    if value == int(value) and abs(value) < 1e6:
        return str(int(value)).replace("-", "−")
    return f"{value:.4g}".replace("-", "−")


def _thinned(points: Sequence[Point]) -> list[Point]:
    """Average neighbouring points until there are at most `MAX_POINTS`."""
    size = math.ceil(len(points) / MAX_POINTS)
    if size <= 1:
        return list(points)
    found: list[Point] = []
    for start in range(0, len(points), size):
        part = points[start : start + size]
        values = [y for _, y in part if y is not None]
        found.append((part[0][0], sum(values) / len(values) if values else None))
    return found


def _scales(points: Sequence[tuple[float, float]]):  # type: ignore[no-untyped-def]
    xs, ys = [x for x, _ in points], [y for _, y in points]
    low_x, high_x, low, high = min(xs), max(xs), min(ys), max(ys)
    if high == low:
        low, high = low - 0.5, high + 0.5
    span_x, span_y = (high_x - low_x) or 1, high - low
    width, height = WIDTH - _LEFT - _RIGHT, HEIGHT - _TOP - _BOTTOM

    def to_x(x: float) -> float:
        return _LEFT + (x - low_x) / span_x * width

    def to_y(y: float) -> float:
        return _TOP + (high - y) / span_y * height

    axes = (
        f'<line x1="{_LEFT}" x2="{_LEFT}" y1="{_TOP}" y2="{HEIGHT - _BOTTOM}"/>'
        f'<line x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{HEIGHT - _BOTTOM}" y2="{HEIGHT - _BOTTOM}"/>'
        f'<text x="{_LEFT - 4}" y="{_TOP + 8}" text-anchor="end">{number(high)}</text>'
        f'<text x="{_LEFT - 4}" y="{HEIGHT - _BOTTOM}" text-anchor="end">{number(low)}</text>'
        f'<text x="{_LEFT}" y="{HEIGHT - 4}">{number(low_x)}</text>'
        f'<text x="{WIDTH - _RIGHT}" y="{HEIGHT - 4}" text-anchor="end">{number(high_x)}</text>'
    )
    return to_x, to_y, axes


def _frame(label: str, inner: str) -> Markup:
    return Markup(
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img"'
        f' aria-label="{Markup.escape(label)}">{inner}</svg>'
    )
