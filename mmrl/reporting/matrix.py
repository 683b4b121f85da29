"""Who of a group won against whom, where a reward compares its samples: the rows that its scores have as `won`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MOST = 32  # samples, or opponents, of a table that is drawn


@dataclass(frozen=True)
class Cell:
    """What one won of another. text: "" where the two were not judged; shade: from -1, all lost, to 1, all won."""

    text: str
    shade: float


@dataclass(frozen=True)
class Matrix:
    """A table of one reward. columns: opponents, samples of the group by number, or anchors; rows: (sample, cells)."""

    name: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]


def matrices(samples: Sequence[Mapping[str, Any]]) -> tuple[Matrix, ...]:
    """The tables of a group's records, one for each reward that tells what it won; what is none is left out."""
    names = dict.fromkeys(name for sample in samples for name in sample["scores"])
    found = (_matrix(name, samples) for name in names)
    return tuple(table for table in found if table is not None)


def _matrix(name: str, samples: Sequence[Mapping[str, Any]]) -> Matrix | None:
    told = [(number, _won(sample, name)) for number, sample in enumerate(samples)]
    rows = [(number, won) for number, won in told if won is not None]
    width = {len(won) for _, won in rows}
    if len(rows) < 2 or len(width) != 1 or not 0 < max(width) <= MOST or len(rows) > MOST:
        return None
    # Nobody meets themselves: with anchors, the samples' own places are filled.
    among = width == {len(samples)} and all(won[number] is None for number, won in rows)
    columns = [str(sample["index"]) for sample in samples] if among else [f"anchor {k + 1}" for k in range(max(width))]
    made = [(str(samples[number]["index"]), tuple(map(_cell, won))) for number, won in rows]
    return Matrix(name, tuple(columns), tuple(made))


def _won(sample: Mapping[str, Any], name: str) -> list[Any] | None:
    won = sample["scores"].get(name, {}).get("details", {}).get("won")
    return won if isinstance(won, list) and all(one is None or _share(one) for one in won) else None


def _share(value: Any) -> bool:
    numeric = isinstance(value, int | float) and not isinstance(value, bool)
    return numeric and math.isfinite(value) and 0 <= value <= 1


def _cell(share: float | None) -> Cell:
    return Cell("", 0.0) if share is None else Cell(f"{share:.2f}".rstrip("0").rstrip("."), 2.0 * share - 1.0)
