"""Charts of the report: which metrics belong together, and how a series becomes an inline SVG.

The SVG holds no words that come from a run: names and last values are written by the template, which escapes.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

# matplotlib cannot write `var(--x)`, so it draws with these stand-ins and the SVG is rewritten after.
INK, GRID = "#0a0b0c", "#0d0e0f"
SERIES_COLOURS = ("#a1b1c1", "#a2b2c2", "#a3b3c3", "#a4b4c4")
CSS_COLOURS = {INK: "var(--muted)", GRID: "var(--grid)"} | {
    stand_in: f"var(--series-{number})" for number, stand_in in enumerate(SERIES_COLOURS, start=1)
}
MAX_OTHER = 24
TINY = 1e-100  # nearer to 0 an axis has no two ends


@dataclass(frozen=True)
class Series:
    """One line: (step, value) pairs; a NaN value breaks it."""

    name: str
    points: tuple[tuple[float, float], ...]

    @property
    def last(self) -> float | None:
        return next((value for _, value in reversed(self.points) if math.isfinite(value)), None)


@dataclass(frozen=True)
class Chart:
    """One small picture with its title, and the series of its legend in colour order."""

    title: str
    note: str
    series: tuple[Series, ...]
    svg: str


def series(rows: Sequence[Mapping[str, Any]], key: str, name: str | None = None) -> Series:
    """The numbers under `key`, by step. A null (it was not finite) becomes a gap."""
    points = [
        (float(row["step"]), math.nan if row[key] is None else float(row[key]))
        for row in rows
        if key in row and (row[key] is None or isinstance(row[key], (int, float)))
    ]
    return Series(name or key, tuple(points))


def reward_charts(rows: Sequence[Mapping[str, Any]]) -> list[Chart]:
    """The mean reward, then each component by itself: their scales differ."""
    names = _component_names(rows)[:MAX_OTHER]
    if len(names) == 1 and all(row.get(names[0]) == row.get("reward/mean") for row in rows):
        names = []  # the reward is its only component
    charts = [
        _chart(rows, "reward", "mean over the step's samples", {"reward/mean": "mean"}),
        *[_chart(rows, key.removeprefix("reward/"), "component", {key: key.removeprefix("reward/")}) for key in names],
        _chart(rows, "spread", "standard deviation of the reward", {"reward/std": "std"}),
        _chart(
            rows,
            "invalid scores",
            "failed rewards, kept out of every mean",
            {"reward/invalid": "invalid"},
            smooth=False,
        ),
    ]
    return [chart for chart in charts if chart]


def evaluation_charts(
    rows: Sequence[Mapping[str, Any]], summary: Mapping[str, Any] | None, main: str | None
) -> list[Chart]:
    """Each evaluation metric over the steps where it was measured, the main one first."""
    rows = _with_summary(rows, summary)
    keys = [key for key in _keys(rows) if key.startswith("eval/")]
    keys.sort(key=lambda key: key != f"eval/{main}")
    charts = [
        _chart(
            rows,
            key.removeprefix("eval/"),
            "evaluation, main metric" if key == f"eval/{main}" else "evaluation",
            {key: "eval"},
            marker="o",
            smooth=False,
        )
        for key in keys[:MAX_OTHER]
    ]
    return [chart for chart in charts if chart]


def conversation_charts(rows: Sequence[Mapping[str, Any]]) -> list[Chart]:
    """What environments count: a chart for each number, and one for all the words of a name, the most frequent four."""
    keys = [key for key in _keys(rows) if key.startswith("env/")]
    whole = [key for key in keys if key.count("/") == 1]
    parts: dict[str, list[str]] = {}
    for key in keys:
        if key not in whole:
            parts.setdefault(key.rpartition("/")[0], []).append(key)
    charts = [_chart(rows, _spaced(key), "mean over the step's samples", {key: key}) for key in whole]
    for name, some in parts.items():
        told = [row for row in rows if any(key in row for key in (name, *some))]
        filled = [
            {"step": row["step"], **{key: row.get(key, 0.0) for key in some}} for row in told
        ]  # absent: none of it
        often = sorted(some, key=lambda key: -sum(row[key] or 0.0 for row in filled))[: len(SERIES_COLOURS)]
        names = {key: key.rpartition("/")[2] for key in often}
        charts.append(_chart(filled, _spaced(name), "by kind", names, smooth=False))
    return [chart for chart in charts[:MAX_OTHER] if chart]


def _spaced(key: str) -> str:
    return key.removeprefix("env/").replace("_", " ")


def health_charts(rows: Sequence[Mapping[str, Any]]) -> list[Chart]:
    """How the update behaves: distance, clipping, signal, gradient, time; then metrics of the user's own."""
    known = [
        _chart(rows, "KL to the reference", "", {"kl": "kl"}, smooth=False),
        _chart(rows, "ratio deviation", "largest |ratio − 1| of the step", {"ratio/max_dev": "max dev"}, log=True),
        _chart(rows, "clipped actions", "share of actions", {"clip/low": "low", "clip/high": "high"}),
        _chart(rows, "groups without signal", "share, all rewards equal", {"group/zero_variance": "share"}),
        _chart(rows, "gradient norm", "before clipping", {"grad_norm": "norm"}, log=True),
        _chart(rows, "entropy", "", {"entropy": "entropy"}),
        _chart(rows, "loss", "", {"loss": "loss"}),
        _chart(rows, "learning rate", "", {"lr": "lr"}, smooth=False),
        _chart(
            rows,
            "time",
            "seconds a step",
            {
                "time/step": "step",
                "time/rollout": "rollout",
                "time/reward": "reward",
                "time/update": "update",
            },
        ),
    ]
    own = [_chart(rows, key, "", {key: key}) for key in _own_names(rows)[:MAX_OTHER]]
    return [chart for chart in known + own if chart]


def not_drawn(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of metrics for which there is no room: the page draws MAX_OTHER of a kind."""
    kinds = (_component_names(rows), [key for key in _keys(rows) if key.startswith("eval/")], _own_names(rows))
    return [name for names in kinds for name in names[MAX_OTHER:]]


def _component_names(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    special = {"reward/mean", "reward/std", "reward/invalid"}
    return [key for key in _keys(rows) if key.startswith("reward/") and key not in special]


def _own_names(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    shown = {"step", "kl", "ratio/max_dev", "clip/low", "clip/high", "group/zero_variance", "grad_norm"}
    shown |= {"entropy", "loss", "lr", "time/step", "time/rollout", "time/reward", "time/update"}
    return [key for key in _keys(rows) if key not in shown and not key.startswith(("reward/", "eval/", "env/"))]


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


def _keys(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(key for row in rows for key in row))


def _with_summary(rows: Sequence[Mapping[str, Any]], summary: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    """Rows plus the first and last evaluation of the summary, where no row of that step has them."""
    rows = list(rows)
    if not summary:
        return rows
    for step, when in ((0, "before"), (summary["steps"], "after")):
        if step is None:
            continue
        present = {key for row in rows if row["step"] == step for key in row}
        missing = {f"eval/{name.removeprefix('eval/')}": value for name, value in summary["eval"][when].items()}
        rows.append({"step": step} | {key: value for key, value in missing.items() if key not in present})
    return sorted(rows, key=lambda row: row["step"])


def _chart(
    rows: Sequence[Mapping[str, Any]],
    title: str,
    note: str,
    keys: Mapping[str, str],
    marker: str = "",
    log: bool = False,
    smooth: bool = True,
) -> Chart | None:
    """The chart, or None when none of its keys has a number."""
    lines = tuple(line for key, name in keys.items() if (line := series(rows, key, name)).last is not None)
    if not lines:
        return None
    positive = all(value > TINY for line in lines for _, value in line.points if math.isfinite(value))
    return Chart(title, note, lines, _svg(lines, marker, log and positive, smooth))


def _svg(lines: Sequence[Series], marker: str, log: bool, smooth: bool) -> str:
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "mmrl", "font.size": 8.5, "axes.unicode_minus": True}):
        figure = Figure(figsize=(4.2, 1.9), layout="constrained")
        axes = figure.add_subplot()
        for line, colour in zip(lines, SERIES_COLOURS, strict=False):
            _draw(axes, line, colour, marker, smooth)
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
    means = thin(moving_mean(line.points, window))
    axes.plot(*zip(*means, strict=True), linewidth=1.9, **style)


def moving_mean(points: Sequence[tuple[float, float]], window: int) -> list[tuple[float, float]]:
    """Mean of the last `window` finite values at each step; NaN where there is none."""
    out = []
    for end, (step, _) in enumerate(points, start=1):
        recent = [value for _, value in points[max(0, end - window) : end] if math.isfinite(value)]
        out.append((step, sum(recent) / len(recent) if recent else math.nan))
    return out


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
