"""Plots curves as text or as an image."""

from pathlib import Path
from typing import Any

import numpy as np

from oyer.cli.views.curves import Curves
from oyer.local.extras import missing
from oyer.protocol.errors import InvalidInput

WIDTH, HEIGHT = 64, 16
"""Size of a text plot, in characters."""

MARKS = "●○"
"""Marks of the first and the second curve in a text plot."""

FORMATS = ("png", "svg", "pdf")
"""Image formats, by file extension."""

_COLOURS = ("#1b6ca8", "#c0392b")

_DPI = 110


def as_text(curves: Curves) -> str:
    """Plot curves as text, with one mark per column; the first curve covers the second."""
    low, high = _bounds(curves)
    canvas = [[" "] * WIDTH for _ in range(HEIGHT)]
    columns = np.linspace(curves.lengths[0], curves.lengths[-1], WIDTH)
    for mark, values in reversed(list(zip(MARKS, curves.values.values(), strict=False))):
        known = np.isfinite(values)
        heights = np.interp(columns, curves.lengths[known], values[known])
        rows = ((high - heights) / (high - low) * (HEIGHT - 1)).round().astype(int)
        for column, row in enumerate(rows):
            canvas[row][column] = mark
    # Adding 0 converts -0.0 to 0.0.
    levels = np.linspace(high, low, HEIGHT).round(3) + 0.0
    labels = [f"{level:8.3f}" for level in levels]
    lines = [f"{label} ┤{''.join(row)}" for label, row in zip(labels, canvas, strict=True)]
    last = str(curves.lengths[-1])
    axis = f"{'':8} └{'─' * WIDTH}\n{'':10}{curves.lengths[0]:<{WIDTH - len(last)}}{last}"
    key = "   ".join(f"{mark} {name}" for mark, name in zip(MARKS, curves.values, strict=False))
    return "\n".join([f"{curves.title}: {curves.what}", *lines, axis, f"{'':10}{key}"])


def _bounds(curves: Curves) -> tuple[float, float]:
    values = np.concatenate(list(curves.values.values()))
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def as_picture(curves: Curves, path: Path) -> None:
    """Write curves to a PNG, SVG or PDF file, by its extension.

    Raises:
        MissingExtra: matplotlib is not installed.
        InvalidInput: the extension is unknown, or the file cannot be written.
    """
    kind = path.suffix.lower().removeprefix(".")
    if kind not in FORMATS:
        raise InvalidInput(f"--out {path}: must end in .{', .'.join(FORMATS)}")
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise missing("--out", "matplotlib", "plot") from error
    figure = Figure(figsize=(6, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes: Any = figure.add_subplot()
    for colour, (name, values) in zip(_COLOURS, curves.values.items(), strict=False):
        axes.plot(curves.lengths, values, color=colour, label=name, linewidth=2)
    axes.set(title=curves.title, xlabel="length", ylabel=curves.what, xlim=(0, curves.lengths[-1]))
    axes.grid(alpha=0.3)
    if len(curves.values) > 1:
        axes.legend()
    try:
        figure.savefig(path, format=kind, dpi=_DPI)
    except OSError as error:
        raise InvalidInput(f"--out {path}: {error.strerror}; name a file to write") from error
