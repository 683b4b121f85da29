"""Charts of the report: which metrics belong together, and what is said of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from mmrl.reporting.drawing import Series, svg
from mmrl.reporting.results import Values

MOST_KINDS = 4  # words of one name that a chart tells apart
MAX_OTHER = 24
ROLE_METRICS = {"loss": "mean over its updates of the step", "grad_norm": "before clipping", "lr": "learning rate"}
NO_ROLES = ("reward", "eval", "env", "time", "expert")  # what stands before `/` in other metrics


@dataclass(frozen=True)
class Chart:
    """One small picture with its title, and the series of its legend. Of constants there is none, and `svg` is "".

    group: what it stands under, in a section of several.
    """

    title: str
    note: str
    series: tuple[Series, ...]
    svg: str
    group: str = ""


@dataclass(frozen=True)
class Section:
    """Charts of one kind, and those whose lines did not move."""

    id: str
    title: str
    charts: tuple[Chart, ...]
    constant: tuple[Chart, ...] = ()

    @property
    def groups(self) -> list[tuple[str, list[Chart]]]:
        """The charts by what they stand under."""
        return [(name, list(some)) for name, some in groupby(self.charts, key=lambda chart: chart.group)]


def section(id_: str, title: str, charts: Iterable[Chart]) -> Section:
    """The charts by whether there is something to draw."""
    charts = tuple(charts)
    return Section(id_, title, tuple(c for c in charts if c.svg), tuple(c for c in charts if not c.svg))


def chart_of(
    title: str,
    note: str,
    lines: Sequence[Series],
    marker: str = "",
    log: bool = False,
    smooth: bool = True,
) -> Chart:
    """The chart of lines with numbers; see drawing.svg."""
    flat = all(line.constant for line in lines)
    return Chart(title, note, tuple(lines), "" if flat else svg(lines, marker, log, smooth))


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
    names = component_names(rows)[:MAX_OTHER]
    note = "mean over the step's samples"
    if len(names) == 1 and proportional(rows, names[0], "reward/mean"):
        note, names = f"{names[0].removeprefix('reward/')}, {note}", []  # the reward is its only component
    charts = [
        _chart(rows, "reward", note, {"reward/mean": "mean"}),
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


def proportional(rows: Sequence[Mapping[str, Any]], key: str, other: str) -> bool:
    """Whether one metric is the other times a factor above 0, such as a reward's weight, but for rounding."""
    pairs = [(row.get(key), row.get(other)) for row in rows]
    both = [(a, b) for a, b in pairs if a is not None and b is not None]
    if not both or any((a is None) != (b is None) for a, b in pairs):
        return False
    largest = max(both, key=lambda pair: abs(pair[0]))
    factor = largest[1] / largest[0] if largest[0] else 1.0
    return factor > 0 and all(math.isclose(a * factor, b, rel_tol=1e-5, abs_tol=1e-9) for a, b in both)


def evaluation_charts(
    rows: Sequence[Mapping[str, Any]], by_step: Mapping[int, Values], main: str | None
) -> list[Chart]:
    """Each evaluation metric over the steps where it was measured, the main one first.

    by_step: evaluations (names without "eval/") of steps of which the rows may not have them.
    """
    rows = with_evaluations(rows, by_step)
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
        often = sorted(some, key=lambda key: -sum(row[key] or 0.0 for row in filled))[:MOST_KINDS]
        names = {key: key.rpartition("/")[2] for key in often}
        charts.append(_chart(filled, _spaced(name), "by kind", names, smooth=False))
    return [chart for chart in charts[:MAX_OTHER] if chart]


def _spaced(key: str) -> str:
    return key.removeprefix("env/").replace("_", " ")


def roles_of(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Who learns beside the policy: what stands before `/loss`, `/grad_norm` or `/lr`."""
    heads = (key.rpartition("/") for key in _keys(rows))
    found = dict.fromkeys(head for head, _, tail in heads if head and tail in ROLE_METRICS)
    return [role for role in found if role.partition("/")[0] not in NO_ROLES]


def role_charts(rows: Sequence[Mapping[str, Any]]) -> list[Chart]:
    """Where several roles learn: role by role its loss, gradient norm and rate, then what else is told of it.

    A role that is not updated in a step has no loss there, and its line goes on.
    """
    charts = []
    for role, head, key in _role_keys(rows)[:MAX_OTHER]:
        told = [row for row in rows if row.get(key) is not None]
        name, note = key.removeprefix(head).replace("_", " "), ROLE_METRICS.get(key.removeprefix(head), "")
        chart = _chart(told, f"{role}: {name}", note, {key: name}, log=key.endswith("grad_norm"))
        charts += [replace(chart, group=role)] if chart else []
    return charts


def _role_keys(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, str]]:
    """(role, what stands before its metrics' names, metric)."""
    found = []
    for role, head in (("policy", ""), *((role, f"{role}/") for role in roles_of(rows))):
        told = [key for key in _keys(rows) if key.startswith(head)] if head else [*ROLE_METRICS]
        names = dict.fromkeys([*(f"{head}{tail}" for tail in ROLE_METRICS), *told])
        found += [(role, head, key) for key in names if any(row.get(key) is not None for row in rows)]
    return found if len({role for role, _, _ in found}) > 1 else []


def health_charts(rows: Sequence[Mapping[str, Any]]) -> list[Chart]:
    """How the update behaves: distance, clipping, signal, gradient, time; then metrics of the user's own."""
    known = [
        _chart(rows, "KL to the reference", "", {"kl": "kl"}, smooth=False),
        _chart(rows, "ratio deviation", "largest |ratio − 1| of the step", {"ratio/max_dev": "max dev"}, log=True),
        _chart(rows, "clipped actions", "share of actions", {"clip/low": "low", "clip/high": "high"}),
        _chart(rows, "groups without signal", "share, all rewards equal", {"group/zero_variance": "share"}),
        *(() if roles_of(rows) else _of_the_update(rows)),
        _chart(rows, "entropy", "", {"entropy": "entropy"}),
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


def _of_the_update(rows: Sequence[Mapping[str, Any]]) -> tuple[Chart | None, ...]:
    """Of a policy that learns alone; role_charts has them of several roles."""
    return (
        _chart(rows, "gradient norm", "before clipping", {"grad_norm": "norm"}, log=True),
        _chart(rows, "loss", "", {"loss": "loss"}),
        _chart(rows, "learning rate", "", {"lr": "lr"}, smooth=False),
    )


def not_drawn(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of metrics for which there is no room: the page draws MAX_OTHER of a kind."""
    evaluations = [key for key in _keys(rows) if key.startswith("eval/")]
    kinds = (component_names(rows), evaluations, [key for _, _, key in _role_keys(rows)], _own_names(rows))
    return [name for names in kinds for name in names[MAX_OTHER:]]


def component_names(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Metrics of single rewards."""
    special = {"reward/mean", "reward/std", "reward/invalid"}
    special |= {key for keys in status_names(rows).values() for key in keys.values()}
    return [key for key in _keys(rows) if key.startswith("reward/") and key not in special]


def status_names(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """Of each reward that says what became of a sample: the words and their metrics, reward/<name>/status/<word>."""
    found: dict[str, dict[str, str]] = {}
    for key in _keys(rows):
        head, _, word = key.removeprefix("reward/").partition("/status/")
        if key.startswith("reward/") and head and word:
            found.setdefault(head, {})[word] = key
    return found


def _own_names(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    shown = {"step", "kl", "ratio/max_dev", "clip/low", "clip/high", "group/zero_variance", "grad_norm"}
    shown |= {"entropy", "loss", "lr", "time/step", "time/rollout", "time/reward", "time/update"}
    others = ("reward/", "eval/", "env/", *(f"{role}/" for role in roles_of(rows)))
    return [key for key in _keys(rows) if key not in shown and not key.startswith(others)]


def _keys(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    found: dict[str, None] = {}
    last: Mapping[str, Any] = {}
    for row in rows:
        if row.keys() != last.keys():  # most have the names of the row before
            found |= dict.fromkeys(row)
            last = row
    return list(found)


def with_evaluations(rows: Sequence[Mapping[str, Any]], by_step: Mapping[int, Values]) -> list[Mapping[str, Any]]:
    """Rows plus the evaluations of a step, where no row of that step has them."""
    rows = list(rows)
    for step, values in by_step.items():
        present = {key for row in rows if row["step"] == step for key in row}
        named = {f"eval/{name}": value for name, value in values.items()}
        rows.append({"step": step} | {key: value for key, value in named.items() if key not in present})
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
    lines = [line for key, name in keys.items() if (line := series(rows, key, name)).last is not None]
    if not lines:
        return None
    lines = [replace(line, colour=number) for number, line in enumerate(lines, start=1)]
    return chart_of(title, note, lines, marker, log, smooth)
