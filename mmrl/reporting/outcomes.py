"""Charts of what became of the samples, of rewards that say so: the share of each status, step by step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from mmrl.reporting.curves import Chart, chart_of, series, status_names

MOST_STATUSES = 8  # lines of a chart; what is rarer is one line together
FIRST, REST = "ok", "others"


def status_charts(rows: Sequence[Mapping[str, Any]]) -> list[Chart]:
    """A chart for each reward with statuses, one for those that say the same; "ok" first, then by how often."""
    drawn: dict[tuple, tuple[list[str], list[dict[str, Any]]]] = {}
    for reward, keys in status_names(rows).items():
        told = [_shares(row, keys) for row in rows if any(row.get(key) is not None for key in keys.values())]
        same = tuple(tuple(sorted(row.items())) for row in told)
        drawn.setdefault(same, ([], told))[0].append(reward)
    return [_chart(rewards, told) for rewards, told in drawn.values() if told]


def _shares(row: Mapping[str, Any], keys: Mapping[str, str]) -> dict[str, Any]:
    """Each status with its share; one that the row does not have is nobody's."""
    return {"step": row["step"], **{f"={word}": row.get(key) or 0.0 for word, key in keys.items()}}


def _chart(rewards: Sequence[str], rows: Sequence[dict[str, Any]]) -> Chart:
    words = [key for key in rows[0] if key != "step"]
    words.sort(key=lambda word: (word != f"={FIRST}", -sum(row[word] for row in rows), word))
    rest = words[MOST_STATUSES - 1 :] if len(words) > MOST_STATUSES else []
    if rest:
        words = words[: MOST_STATUSES - 1]
        rows = [{**row, REST: sum(row[word] for word in rest)} for row in rows]
    lines = [
        series(rows, word, word.removeprefix("=").replace("_", " ")) for word in (*words, *([REST] if rest else []))
    ]
    lines = [replace(line, colour=number) for number, line in enumerate(lines, start=1)]
    return chart_of(", ".join(rewards), "share of the step's samples by status", lines)
