"""Lines over steps as an inline SVG.

The SVG holds no words that come from a run: names and last values are written by the template, which escapes.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
from numpy.lib.stride_tricks import sliding_window_view

# matplotlib cannot write `var(--x)`, so it draws with these stand-ins and the SVG is rewritten after.
INK, GRID = "#0a0b0c", "#0d0e0f"
SERIES_COLOURS = tuple(f"#a{n}b{n}c{n}" for n in range(1, 9))
CSS_COLOURS = {INK: "var(--muted)", GRID: "var(--grid)"} | {
    stand_in: f"var(--series-{number})" for number, stand_in in enumerate(SERIES_COLOURS, start=1)
}
TINY = 1e-100  # nearer to 0 an axis has no two ends


@dataclass(frozen=True)
class Series:
    """One line: (step, value) pairs; a NaN value breaks it. colour: its number, from 1."""

    name: str
    points: tuple[tuple[float, float], ...]
    colour: int = 1

    @property
    def last(self) -> float | None:
        return next((value for _, value in reversed(self.points) if math.isfinite(value)), None)

    @property
    def constant(self) -> bool:
        """Whether it has only one value, which is not worth an axis."""
        return len({value for _, value in self.points if math.isfinite(value)}) <= 1


def svg(lines: Sequence[Series], marker: str = "", log: bool = False, smooth: bool = True) -> str:
    """The picture of some lines. marker: matplotlib's, at each point; log: of the values, where all are above 0.

    smooth: long lines are drawn faint, with a moving mean over them.
    """
    log = log and all(value > TINY for line in lines for _, value in line.points if math.isfinite(value))
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "mmrl", "font.size": 8.5, "axes.unicode_minus": True}):
        figure = Figure(figsize=(4.2, 1.9), layout="constrained")
        axes = figure.add_subplot()
        for line in lines:
            _draw(axes, line, SERIES_COLOURS[line.colour - 1], marker, smooth)
        _dress(axes, log)
        buffer = io.StringIO()
        figure.savefig(
            buffer,
            format="svg",
            transparent=True,
            metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
        )
    return _for_inline(buffer.getvalue())


def _draw(axes: Any, line: Series, colour: str, marker: str, smooth: bool) -> None:
    points = thin(line.points)
    steps, values = zip(*points, strict=True)
    alone = sum(math.isfinite(value) for value in values) == 1  # one point has no line to be seen by
    style: dict[str, Any] = {"color": colour, "clip_on": False}  # a line along the floor is seen whole
    window = len(line.points) // 20
    if window < 3 or not smooth:
        axes.plot(steps, values, linewidth=1.7, marker="o" if alone else marker, markersize=4, **style)
        return
    axes.plot(steps, values, linewidth=0.8, alpha=0.35, **style)
    even = blocks(line.points)
    means = thin(moving_mean(even, len(even) // 20))
    axes.plot(*zip(*means, strict=True), linewidth=1.9, **style)


def moving_mean(points: Sequence[tuple[float, float]], window: int) -> list[tuple[float, float]]:
    """Mean of the last `window` finite values at each step; NaN where there is none."""
    steps, values = np.array(points, dtype=np.float64).T
    finite = np.isfinite(values)
    before = np.zeros(window - 1)
    sums = sliding_window_view(np.concatenate([before, np.where(finite, values, 0.0)]), window).sum(axis=1)
    counts = sliding_window_view(np.concatenate([before, finite]), window).sum(axis=1)
    means = np.where(counts > 0, sums / np.maximum(counts, 1), math.nan)
    return list(zip(steps.tolist(), means.tolist()))


def blocks(points: Sequence[tuple[float, float]], most: int = 10_000) -> list[tuple[float, float]]:
    """At most `most` points: means of so many neighbours each, at the last one's step; NaN where none is finite."""
    width = -(-len(points) // most)
    if width <= 1:
        return list(points)
    made = []
    for start in range(0, len(points), width):
        some = points[start : start + width]
        finite = [value for _, value in some if math.isfinite(value)]
        made.append((some[-1][0], math.fsum(finite) / len(finite) if finite else math.nan))
    return made


def _dress(axes: Any, log: bool) -> None:
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(GRID)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, length=0, pad=4)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.margins(x=0.02, y=0.12)
    if log:
        axes.set_yscale("log")
        low, high = axes.get_ylim()
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 50 else (1,), numticks=5))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.tick_params(which="minor", length=0)
    else:
        low, high = axes.dataLim.intervaly
        if low >= 0:  # shares, times, counts: no axis below 0
            axes.set_ylim(bottom=max(0.0, axes.get_ylim()[0]), top=None if high > TINY else 1.0)
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.ticklabel_format(axis="y", scilimits=(-3, 4), useOffset=False)
    axes.yaxis.get_offset_text().set_color(INK)


def _for_inline(document: str) -> str:
    """The <svg> element alone, scaled by its container and coloured by the page's variables."""
    element = document[document.index("<svg") :]
    element = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", element, count=1)
    element = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", element, count=1)
    element = re.sub(r' id="(?:figure|axes|patch|line2d|matplotlib|xtick|ytick|text|LineCollection)[^"]*"', "", element)
    element = re.sub(r"<style.*?</style>|font-family: [^;\"]*; ?", "", element, flags=re.DOTALL)
    for stand_in, variable in CSS_COLOURS.items():
        element = element.replace(stand_in, variable)
    return element


def thin(points: Sequence[tuple[float, float]], bins: int = 200) -> list[tuple[float, float]]:
    """At most 2 * bins points that keep every bin's extremes, so that no spike is lost."""
    if len(points) <= 2 * bins:
        return list(points)
    kept = []
    for number in range(bins):
        part = points[number * len(points) // bins : (number + 1) * len(points) // bins]
        finite = [point for point in part if math.isfinite(point[1])] or part[:1]
        low, high = min(finite, key=lambda p: p[1]), max(finite, key=lambda p: p[1])
        kept += sorted({low, high})
    return kept
