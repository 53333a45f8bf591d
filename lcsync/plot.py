# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Curves over a number of groups, both axes logarithmic: as text, or by matplotlib as PNG or SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import log10
from pathlib import Path

from lcsync.errors import NoProgram

Curves = Mapping[str, Sequence[tuple[float, float]]]  # by name, points (x, y) above 0
MARKS = "*o+x#@%&"
ROWS = 14


def as_text(title: str, curves: Curves, width: int = 79) -> list[str]:
    """Lines of at most ``width`` characters; a mark a curve, the later curve on top."""
    points = [point for curve in curves.values() for point in curve if point[1] > 0]
    if not points:
        return [f"{title}: nothing to show"]
    low, high = (log10(edge) for edge in (min(y for _, y in points), max(y for _, y in points)))
    left, right = (log10(edge) for edge in (min(x for x, _ in points), max(x for x, _ in points)))
    columns = max(10, width - 11)
    grid = [[" "] * columns for _ in range(ROWS)]
    for mark, curve in zip(MARKS, curves.values(), strict=False):
        for x, y in curve:
            if y > 0:
                column = round((log10(x) - left) / (right - left or 1) * (columns - 1))
                row = round((log10(y) - low) / (high - low or 1) * (ROWS - 1))
                grid[ROWS - 1 - row][column] = mark
    lines = [title, "  ".join(f"{mark} {name}" for mark, name in zip(MARKS, curves, strict=False))]
    for index, cells in enumerate(grid):
        value = 10 ** (low + (high - low) * (ROWS - 1 - index) / (ROWS - 1))
        lines.append(f"{value:9.3g} |{''.join(cells).rstrip()}")
    lines.append(f"{'':9} +{'-' * columns}")
    ends = f"{10**left:.3g}", f"{10**right:.3g} groups"
    lines.append(f"{'':11}{ends[0]}{ends[1]:>{columns - len(ends[0])}}")
    return [line[:width] for line in lines]


def to_file(file: Path, heading: str, panels: Mapping[str, Curves]) -> None:
    """A figure with a panel each; the name's end says which format. NoProgram without matplotlib, OSError."""
    try:
        from matplotlib import rc_context  # type: ignore[import-not-found,unused-ignore]
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # type: ignore[import-not-found,unused-ignore]
        from matplotlib.figure import Figure  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        raise NoProgram(name="matplotlib", package="python3-matplotlib (or pip install 'lcsync[plot]')") from None
    rows = -(-len(panels) // 2)
    figure = Figure(figsize=(11, 4.2 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(heading)
    for axes, (title, curves) in zip(figure.subplots(rows, 2, squeeze=False).flat, panels.items(), strict=False):
        for name, points in curves.items():
            shown = [(x, y) for x, y in points if y > 0]
            if shown:
                axes.plot(*zip(*shown, strict=True), marker=".", label=name)
        axes.set(xscale="log", yscale="log", xlabel="groups", title=title)
        axes.grid(visible=True, alpha=0.3)
        axes.legend()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "lcsync"}):  # text stays text: a quarter of the size
        figure.savefig(file)
